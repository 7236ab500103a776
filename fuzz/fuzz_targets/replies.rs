//! Replies of the store that its clients did not expect are errors, never panics: those of
//! the NAT's procedures, of the built-in ones and of the Redis front end's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_functions::nat::ops::{
    Bind, List, Lookup, NatRefusal, Refresh, Register, Release, Renew, TakeBlock,
};
use stateplane_state::builtin::{counter, kv, pool, queue, redis};
use stateplane_state::op::{self, Operation};

fn read<O: Operation>(reply: &[u8]) {
    if let Err(error) = O::decode_reply(reply) {
        let _ = (NatRefusal::from_error(error), error.to_string());
    }
}

fuzz_target!(|reply: &[u8]| {
    read::<Register>(reply);
    read::<Renew>(reply);
    read::<Release>(reply);
    read::<TakeBlock>(reply);
    read::<Bind>(reply);
    read::<Lookup>(reply);
    read::<Refresh>(reply);
    read::<List>(reply);
    read::<kv::Get<'_>>(reply);
    read::<kv::Put<'_>>(reply);
    read::<kv::Delete<'_>>(reply);
    read::<kv::CompareAndSet<'_>>(reply);
    read::<counter::Add<'_>>(reply);
    read::<counter::Get<'_>>(reply);
    read::<queue::Push<'_>>(reply);
    read::<queue::Pop<'_>>(reply);
    read::<queue::Len<'_>>(reply);
    read::<pool::Create<'_>>(reply);
    read::<pool::Take<'_>>(reply);
    read::<pool::Give<'_>>(reply);
    if let Ok(body) = op::decode_reply(reply) {
        let _ = redis::codec::split_reply(body);
    }
});
