//! The commands a store executes: their numbers in operations, names, and shapes.

/// What a command is like, in the terms of Redis' `COMMAND INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Its name in lower case.
    pub name: &'static str,
    /// How many words it has, its name included; negative: at least so many.
    pub arity: i8,
    /// Whether it may change anything.
    pub writes: bool,
    /// Word number of the first key, of the last (negative: from the end), and the step; zeros
    /// for none.
    pub keys: (i8, i8, i8),
}

impl Shape {
    /// Whether the command may have `words` words, its name included.
    pub const fn admits(&self, words: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        words == least || self.arity < 0 && words > least
    }
}

/// Defines [`Command`]; the lines are sorted by name, a test sees to it.
macro_rules! commands {
    ($($code:literal $name:ident $text:literal $arity:literal $kind:ident $keys:tt;)*) => {
        /// A command. Its number stands in operations, so it never changes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "Redis' documentation says what each does")]
        pub enum Command { $($name = $code,)* }

        impl Command {
            /// All of them, by name.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its shape.
            pub const fn shape(self) -> Shape {
                match self {
                    $(Self::$name => Shape {
                        name: $text,
                        arity: $arity,
                        writes: commands!(@$kind),
                        keys: $keys,
                    },)*
                }
            }

            /// The command with this number.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
    (@reads) => { false };
    (@writes) => { true };
}

commands! {
    1 Append "append" 3 writes (1, 1, 1);
    87 BLMove "blmove" 6 writes (1, 2, 1);
    85 BLPop "blpop" -3 writes (1, -2, 1);
    86 BRPop "brpop" -3 writes (1, -2, 1);
    88 BRPopLPush "brpoplpush" 4 writes (1, 2, 1);
    2 DbSize "dbsize" 1 reads (0, 0, 0);
    3 Decr "decr" 2 writes (1, 1, 1);
    4 DecrBy "decrby" 3 writes (1, 1, 1);
    5 Del "del" -2 writes (1, -1, 1);
    6 Exists "exists" -2 reads (1, -1, 1);
    7 Expire "expire" -3 writes (1, 1, 1);
    8 ExpireAt "expireat" -3 writes (1, 1, 1);
    9 ExpireTime "expiretime" 2 reads (1, 1, 1);
    10 FlushAll "flushall" -1 writes (0, 0, 0);
    11 FlushDb "flushdb" -1 writes (0, 0, 0);
    12 Get "get" 2 reads (1, 1, 1);
    13 GetDel "getdel" 2 writes (1, 1, 1);
    14 GetEx "getex" -2 writes (1, 1, 1);
    15 GetRange "getrange" 4 reads (1, 1, 1);
    16 GetSet "getset" 3 writes (1, 1, 1);
    17 HDel "hdel" -3 writes (1, 1, 1);
    18 HExists "hexists" 3 reads (1, 1, 1);
    19 HGet "hget" 3 reads (1, 1, 1);
    20 HGetAll "hgetall" 2 reads (1, 1, 1);
    21 HIncrBy "hincrby" 4 writes (1, 1, 1);
    83 HIncrByFloat "hincrbyfloat" 4 writes (1, 1, 1);
    22 HKeys "hkeys" 2 reads (1, 1, 1);
    23 HLen "hlen" 2 reads (1, 1, 1);
    24 HMGet "hmget" -3 reads (1, 1, 1);
    25 HMSet "hmset" -4 writes (1, 1, 1);
    26 HScan "hscan" -3 reads (1, 1, 1);
    27 HSet "hset" -4 writes (1, 1, 1);
    28 HSetNx "hsetnx" 4 writes (1, 1, 1);
    29 HStrLen "hstrlen" 3 reads (1, 1, 1);
    30 HVals "hvals" 2 reads (1, 1, 1);
    31 Incr "incr" 2 writes (1, 1, 1);
    32 IncrBy "incrby" 3 writes (1, 1, 1);
    84 IncrByFloat "incrbyfloat" 3 writes (1, 1, 1);
    33 Keys "keys" 2 reads (0, 0, 0);
    34 LIndex "lindex" 3 reads (1, 1, 1);
    35 LInsert "linsert" 5 writes (1, 1, 1);
    36 LLen "llen" 2 reads (1, 1, 1);
    37 LMove "lmove" 5 writes (1, 2, 1);
    38 LPop "lpop" -2 writes (1, 1, 1);
    39 LPush "lpush" -3 writes (1, 1, 1);
    40 LPushX "lpushx" -3 writes (1, 1, 1);
    41 LRange "lrange" 4 reads (1, 1, 1);
    42 LRem "lrem" 4 writes (1, 1, 1);
    43 LSet "lset" 4 writes (1, 1, 1);
    44 LTrim "ltrim" 4 writes (1, 1, 1);
    45 MGet "mget" -2 reads (1, -1, 1);
    46 MSet "mset" -3 writes (1, -1, 2);
    47 MSetNx "msetnx" -3 writes (1, -1, 2);
    48 Persist "persist" 2 writes (1, 1, 1);
    49 PExpire "pexpire" -3 writes (1, 1, 1);
    50 PExpireAt "pexpireat" -3 writes (1, 1, 1);
    51 PExpireTime "pexpiretime" 2 reads (1, 1, 1);
    52 PSetEx "psetex" 4 writes (1, 1, 1);
    53 PTtl "pttl" 2 reads (1, 1, 1);
    54 RandomKey "randomkey" 1 reads (0, 0, 0);
    55 Rename "rename" 3 writes (1, 2, 1);
    56 RenameNx "renamenx" 3 writes (1, 2, 1);
    57 RPop "rpop" -2 writes (1, 1, 1);
    58 RPopLPush "rpoplpush" 3 writes (1, 2, 1);
    59 RPush "rpush" -3 writes (1, 1, 1);
    60 RPushX "rpushx" -3 writes (1, 1, 1);
    61 SAdd "sadd" -3 writes (1, 1, 1);
    62 Scan "scan" -2 reads (0, 0, 0);
    63 SCard "scard" 2 reads (1, 1, 1);
    64 Set "set" -3 writes (1, 1, 1);
    65 SetEx "setex" 4 writes (1, 1, 1);
    66 SetNx "setnx" 3 writes (1, 1, 1);
    67 SetRange "setrange" 4 writes (1, 1, 1);
    68 SIsMember "sismember" 3 reads (1, 1, 1);
    69 SMembers "smembers" 2 reads (1, 1, 1);
    70 SMIsMember "smismember" -3 reads (1, 1, 1);
    71 SMove "smove" 4 writes (1, 2, 1);
    72 SPop "spop" -2 writes (1, 1, 1);
    73 SRem "srem" -3 writes (1, 1, 1);
    74 SScan "sscan" -3 reads (1, 1, 1);
    75 StrLen "strlen" 2 reads (1, 1, 1);
    76 SubStr "substr" 4 reads (1, 1, 1);
    77 Touch "touch" -2 reads (1, -1, 1);
    78 Ttl "ttl" 2 reads (1, 1, 1);
    79 Type "type" 2 reads (1, 1, 1);
    80 Unlink "unlink" -2 writes (1, -1, 1);
    // Not commands of their own on any connection: what `INFO` and `WATCH` ask the store.
    82 Figures "~figures" 1 reads (0, 0, 0);
    81 Versions "~versions" -2 reads (1, -1, 1);
}

/// A name in lower case as a number that sorts as the name does; `None` if it is too long.
const fn packed(name: &[u8]) -> Option<u128> {
    if name.len() > 16 {
        return None;
    }
    let (mut number, mut at) = (0, 0);
    while at < name.len() {
        number |= (name[at].to_ascii_lowercase() as u128) << (120 - 8 * at);
        at += 1;
    }
    Some(number)
}

/// The names of [`Command::ALL`], packed: each command a client sends is looked up.
static NAMES: [u128; Command::ALL.len()] = {
    let (mut names, mut at) = ([0; Command::ALL.len()], 0);
    while at < names.len() {
        names[at] = packed(Command::ALL[at].shape().name.as_bytes()).expect("names are short");
        at += 1;
    }
    names
};

impl Command {
    /// Whether what it says follows from the keys alone, and not from what time it is.
    pub const fn is_timeless(self) -> bool {
        !matches!(
            self,
            Self::Ttl | Self::PTtl | Self::RandomKey | Self::Figures
        )
    }

    /// Whether its client waits if there is nothing to pop. The store does not wait: it says that
    /// there is nothing, and whoever waits asks again.
    pub const fn may_wait(self) -> bool {
        matches!(
            self,
            Self::BLPop | Self::BRPop | Self::BLMove | Self::BRPopLPush
        )
    }

    /// The command called `name`, in whatever case.
    pub fn named(name: &[u8]) -> Option<Self> {
        let at = NAMES.binary_search(&packed(name)?).ok()?;
        // Zeros at a name's end are lost in its number.
        let found = Self::ALL[at];
        (found.shape().name.len() == name.len()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_numbers_differ() {
        assert!(Command::ALL.is_sorted_by_key(|command| command.shape().name));
        for command in Command::ALL {
            let shape = command.shape();
            assert_eq!(Command::named(shape.name.as_bytes()), Some(*command));
            let upper = shape.name.to_ascii_uppercase();
            assert_eq!(Command::named(upper.as_bytes()), Some(*command));
            assert_eq!(Command::from_code(*command as u8), Some(*command));
        }
        assert_eq!(Command::named(b"no such command, and a long one"), None);
        assert_eq!(Command::named(b""), None);
        assert_eq!(Command::named(b"get\0"), None);
    }

    #[test]
    fn arity_counts_the_name() {
        assert!(Command::Get.shape().admits(2) && !Command::Get.shape().admits(3));
        assert!(Command::Del.shape().admits(9) && !Command::Del.shape().admits(1));
    }
}
