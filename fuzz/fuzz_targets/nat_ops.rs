//! Replies of the store that an instance did not expect are errors, never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_functions::nat::ops::{
    Bind, List, Lookup, NatRefusal, Operation, Refresh, Register, Release, Renew, TakeBlock,
};

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
});
