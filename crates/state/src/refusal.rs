//! Why an operation was not executed.

/// First code that belongs to procedures; smaller ones belong to the store.
const FIRST_CUSTOM: u8 = 64;

/// Defines [`Refusal`]'s named part with its stable codes.
macro_rules! refusals {
    ($($code:literal $name:ident $text:literal;)*) => {
        /// Why an operation was not executed. A refused operation leaves no trace in the state.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
        pub enum Refusal {
            $(#[doc = $text] #[error($text)] $name,)*
            /// A procedure's own reason, see [`Refusal::custom`].
            #[error("refused by the procedure with code {0}")]
            Custom(u8),
        }

        impl Refusal {
            /// The status byte that stands for this refusal; never zero.
            pub const fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* Self::Custom(code) => code }
            }

            /// The refusal a status byte stands for; `None` for success and unknown codes.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    FIRST_CUSTOM.. => Some(Self::Custom(code)),
                    _ => None,
                }
            }
        }
    };
}

refusals! {
    1 UnknownProcedure "no procedure of this name and version";
    2 BadArguments "the arguments are malformed";
    3 OpTooLarge "the operation is longer than allowed";
    4 ReplyTooLarge "the reply would be longer than allowed";
    5 KeyTooLarge "a key is longer than its table allows";
    6 ValueTooLarge "a value is longer than its table allows";
    7 TableFull "a table has reached its number of rows";
    8 MemoryFull "the store has reached its number of bytes";
    9 TimersFull "the store has reached its number of timers";
    10 NotFound "what the operation names does not exist";
    11 AlreadyExists "what the operation creates exists already";
    12 OutOfRange "the result would leave its allowed range";
    13 Exhausted "nothing is left to take";
    14 NotOwner "it belongs to somebody else";
    15 Corrupt "a row does not have its table's form";
    16 NotARead "an operation that writes was asked for as a read";
}

impl Refusal {
    /// A procedure's own reason number `n`, counted from zero up to 191.
    pub const fn custom(n: u8) -> Self {
        assert!(
            n <= u8::MAX - FIRST_CUSTOM,
            "a procedure has at most 192 own refusals"
        );
        Self::Custom(FIRST_CUSTOM + n)
    }

    /// The number given to [`Refusal::custom`], if this is a procedure's own reason.
    pub const fn as_custom(self) -> Option<u8> {
        match self {
            Self::Custom(code) => code.checked_sub(FIRST_CUSTOM),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_for_one_refusal() {
        assert_eq!(Refusal::from_code(0), None);
        let known = (0..=u8::MAX).filter_map(Refusal::from_code);
        for (refusal, code) in known.zip((1..=16).chain(64..=255)) {
            assert_eq!(refusal.code(), code);
        }
        assert_eq!(Refusal::from_code(17), None);
        assert_eq!(Refusal::custom(3).as_custom(), Some(3));
        assert_eq!(Refusal::TableFull.as_custom(), None);
    }
}
