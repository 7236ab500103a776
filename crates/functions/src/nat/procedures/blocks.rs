//! Instances, their leases and the blocks of outside ports they own.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use stateplane_state::{Refusal, Tx};
use zerocopy::byteorder::network_endian::U64;

use super::Nat;
use super::rows::{BlockKey, Empty, LeaseRow, OwnerRow};
use crate::nat::ops::block::{BlockTaken, Lease, Register, TakeBlock, owner_from_arguments};
use crate::nat::ops::{NatRefusal, Owner};

/// The counter of epochs.
const EPOCHS: &[u8] = b"last";

/// Whether a block can be taken.
enum BlockState {
    Free,
    /// Free, and to be crossed off the lease of this epoch.
    Orphan(u64),
    Quarantined,
    Taken,
}

impl Nat {
    /// The same life of an instance keeps its epoch; a new life gets a new one.
    pub(super) fn register(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let wanted = Register::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        if wanted.fingerprint != self.config.fingerprint() {
            return Err(NatRefusal::ConfigMismatch.into());
        }
        let instance = U64::new(wanted.instance.0);
        let known = tx.get(self.owners, &instance)?.copied();
        let epoch = match known {
            Some(row) if row.incarnation.get() == wanted.incarnation.0 => row.epoch.get(),
            _ => {
                let last = self.epochs.add(tx, EPOCHS, 1, 1..=i64::MAX)?;
                let epoch = last.cast_unsigned();
                let incarnation = wanted.incarnation.0.into();
                tx.put(
                    self.owners,
                    &instance,
                    &OwnerRow {
                        incarnation,
                        epoch: epoch.into(),
                    },
                )?;
                if let Some(former) = known {
                    self.forget_lease_without_blocks(tx, former.epoch)?;
                }
                let row = LeaseRow {
                    instance,
                    ends: 0.into(),
                    clean: 0.into(),
                    blocks: 0.into(),
                };
                tx.put(self.leases, &epoch.into(), &row)?;
                epoch
            }
        };
        let owner = Owner {
            instance: wanted.instance,
            epoch,
        };
        self.prolong(tx, owner)?.write(reply);
        Ok(())
    }

    pub(super) fn renew(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let owner = owner_from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        self.prolong(tx, owner)?.write(reply);
        Ok(())
    }

    /// The instance stops: its epoch is over. Where packets may leave before their commit, one may
    /// have left with a port that was never bound, so the blocks rest as after a crash.
    pub(super) fn release(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let owner = owner_from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let mut lease = self.lease_of(tx, owner)?;
        let now = tx.now();
        lease.ends = now.as_nanos().into();
        lease.clean = (now + self.config.orphan_quarantine).as_nanos().into();
        tx.put(self.leases, &owner.epoch.into(), &lease)?;
        tx.remove(self.owners, &owner.instance.0.into());
        self.forget_lease_without_blocks(tx, owner.epoch.into())
    }

    pub(super) fn take_block(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let (owner, addr, candidates) =
            TakeBlock::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let lease = self.prolong(tx, owner)?;
        let mut refusal = NatRefusal::OutsideRange;
        for &index in candidates {
            if !self.config.has_block(addr, index) {
                continue;
            }
            match self.block_state(tx, addr, index)? {
                BlockState::Taken if refusal == NatRefusal::BlocksQuarantined => {}
                BlockState::Taken => refusal = NatRefusal::BlocksTaken,
                BlockState::Quarantined => refusal = NatRefusal::BlocksQuarantined,
                free @ (BlockState::Free | BlockState::Orphan(_)) => {
                    if let BlockState::Orphan(former) = free {
                        self.count_blocks(tx, former, -1)?;
                        self.forget_lease_without_blocks(tx, former.into())?;
                    }
                    self.count_blocks(tx, owner.epoch, 1)?;
                    let block = BlockKey::new(addr, index);
                    tx.put(self.blocks, &block, &owner.epoch.into())?;
                    tx.put(self.taken, &block, &Empty)?;
                    BlockTaken { index, lease }.write(reply);
                    return Ok(());
                }
            }
        }
        Err(refusal.into())
    }

    /// Refuses unless `owner` has a lease that has not ended.
    pub(super) fn check_lease(&self, tx: &Tx<'_>, owner: Owner) -> Result<(), Refusal> {
        let lease = self.lease_of(tx, owner)?;
        if tx.now().as_nanos() >= lease.ends.get() {
            return Err(NatRefusal::LeaseEnded.into());
        }
        Ok(())
    }

    /// Refuses unless this block belongs to `owner`.
    pub(super) fn check_block(
        &self,
        tx: &Tx<'_>,
        owner: Owner,
        addr: Ipv4Addr,
        index: u8,
    ) -> Result<(), Refusal> {
        match tx.get(self.blocks, &BlockKey::new(addr, index))? {
            Some(epoch) if epoch.get() == owner.epoch => Ok(()),
            _ => Err(NatRefusal::NotBlockOwner.into()),
        }
    }

    /// The lease of an owner that is still its instance's present life.
    fn lease_of(&self, tx: &Tx<'_>, owner: Owner) -> Result<LeaseRow, Refusal> {
        match tx.get(self.owners, &owner.instance.0.into())? {
            Some(row) if row.epoch.get() == owner.epoch => tx
                .get(self.leases, &row.epoch)?
                .copied()
                .ok_or(Refusal::Corrupt),
            _ => Err(NatRefusal::Fenced.into()),
        }
    }

    /// Prolongs an owner's lease. One that had ended goes on: the same life still knows what it let
    /// out, and blocks that others took meanwhile are not its own any more.
    fn prolong(&self, tx: &mut Tx<'_>, owner: Owner) -> Result<Lease, Refusal> {
        let mut row = self.lease_of(tx, owner)?;
        let ends = tx.now() + self.config.block_lease;
        row.ends = ends.as_nanos().into();
        row.clean = (ends + self.config.orphan_quarantine).as_nanos().into();
        tx.put(self.leases, &owner.epoch.into(), &row)?;
        Ok(Lease {
            epoch: owner.epoch,
            ends,
            now: tx.now(),
        })
    }

    fn block_state(&self, tx: &Tx<'_>, addr: Ipv4Addr, index: u8) -> Result<BlockState, Refusal> {
        let Some(epoch) = tx.get(self.blocks, &BlockKey::new(addr, index))? else {
            return Ok(BlockState::Free);
        };
        let lease = tx.get(self.leases, epoch)?.ok_or(Refusal::Corrupt)?;
        let now = tx.now().as_nanos();
        Ok(if now >= lease.clean.get() {
            BlockState::Orphan(epoch.get())
        } else if now < lease.ends.get() && self.is_present(tx, epoch.get(), lease)? {
            BlockState::Taken
        } else {
            BlockState::Quarantined
        })
    }

    fn is_present(&self, tx: &Tx<'_>, epoch: u64, lease: &LeaseRow) -> Result<bool, Refusal> {
        let owner = tx.get(self.owners, &lease.instance)?;
        Ok(owner.is_some_and(|row| row.epoch.get() == epoch))
    }

    fn count_blocks(&self, tx: &mut Tx<'_>, epoch: u64, delta: i32) -> Result<(), Refusal> {
        let mut lease = *tx
            .get(self.leases, &epoch.into())?
            .ok_or(Refusal::Corrupt)?;
        let blocks = lease
            .blocks
            .get()
            .checked_add_signed(delta)
            .ok_or(Refusal::Corrupt)?;
        lease.blocks = blocks.into();
        tx.put(self.leases, &epoch.into(), &lease)?;
        Ok(())
    }

    /// Drops the lease of a former life once nothing refers to it.
    fn forget_lease_without_blocks(&self, tx: &mut Tx<'_>, epoch: U64) -> Result<(), Refusal> {
        let lease = *tx.get(self.leases, &epoch)?.ok_or(Refusal::Corrupt)?;
        if lease.blocks.get() == 0 && !self.is_present(tx, epoch.get(), &lease)? {
            tx.remove(self.leases, &epoch);
        }
        Ok(())
    }
}
