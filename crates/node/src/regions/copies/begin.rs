//! What both directions need to begin.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};

use stateplane_base::Incarnation;
use stateplane_host::region::Sender;
use stateplane_host::udp::BatchSocket;
use stateplane_region::sync::{Sealed, Timing, region_id};
use stateplane_region::{Host, Reader, Spec, Writer};
use stateplane_wire::envelope::Key;

use super::status::SentStatus;
use crate::config::CopiedRegion;

/// What both directions need to begin.
#[derive(Clone)]
pub(super) struct Begin {
    pub(super) host: Host,
    pub(super) region: CopiedRegion,
    pub(super) own: SocketAddrV4,
    pub(super) key: [u8; 16],
    pub(super) cluster: u32,
    pub(super) sender: u16,
    pub(super) life: Incarnation,
    /// For each node that may send it here, the nodes by which it comes then, its writer's first;
    /// none if it is written here.
    pub(super) paths: Vec<Vec<String>>,
    /// Its receivers, or who may send it: name, number, address.
    pub(super) others: Vec<(String, u16, SocketAddr)>,
    pub(super) lose_one_in: u32,
}

impl Begin {
    pub(super) fn timing(&self) -> Timing {
        Timing {
            interval: self.region.interval,
            ..Timing::default()
        }
    }

    /// A new socket is a new life of its sender: nothing sent before may look like a replay.
    pub(super) fn sealed(&mut self) -> Sealed {
        self.life.0 += 1;
        Sealed::new(Key::new(self.key), self.cluster, self.sender, self.life.0)
    }

    pub(super) fn socket(&self) -> io::Result<BatchSocket> {
        BatchSocket::bind(self.own.into())
    }

    pub(super) fn reader(&self) -> Result<Reader<[u8]>, String> {
        let name = &self.region.name;
        let reader = self.host.attach::<[u8]>(name, &self.region.schema);
        let reader = reader.map_err(|error| error.to_string())?;
        match reader.len() == self.region.bytes {
            true => Ok(reader),
            false => Err(format!(
                "it has {} bytes, the file says {}",
                reader.len(),
                self.region.bytes
            )),
        }
    }

    pub(super) fn writer(&self) -> Result<Writer<[u8]>, String> {
        let spec = Spec::bytes(self.region.bytes).schema(&self.region.schema);
        let writer = self.host.open(&self.region.name, &spec);
        writer.map_err(|error| error.to_string())
    }

    /// What sends the region to the others.
    pub(super) fn sender(&mut self) -> Result<Sender, String> {
        let socket = self.socket().map_err(|error| error.to_string())?;
        let scope = self.others.iter().map(|(_, number, at)| (*number, *at));
        let (region, scope) = (region_id(&self.region.name), scope.collect());
        let (timing, sealed) = (self.timing(), self.sealed());
        let mut sender = Sender::new(socket, sealed, region, scope, timing);
        if let Some(group) = self.region.multicast {
            sender.send_to(group).map_err(|error| error.to_string())?;
        }
        sender.lose(self.lose_one_in, self.life.0);
        Ok(sender)
    }

    /// The nodes by which it comes if the sender at this place is asked.
    pub(super) fn path(&self, asks: usize) -> Vec<String> {
        self.paths.get(asks).cloned().unwrap_or_default()
    }

    /// What is said of that. `asks`: the place of who sends it here.
    pub(super) fn sent(
        &self,
        why: Option<&String>,
        sender: Option<&Sender>,
        asks: usize,
    ) -> SentStatus {
        let mut status = SentStatus {
            region: self.region.name.to_string(),
            path: self.path(asks),
            waits_for: why.cloned(),
            ..SentStatus::default()
        };
        let Some(sender) = sender else {
            return status;
        };
        let (export, sent) = (sender.export(), sender.export().sent());
        let has: BTreeMap<u16, u64> = export.peers().map(|(n, at)| (n, at.version)).collect();
        for (name, number, _) in &self.others {
            match has.get(number) {
                Some(version) => drop(status.receivers.insert(name.clone(), *version)),
                None => status.silent.push(name.clone()),
            }
        }
        SentStatus {
            version: export.at().version,
            epoch: export.at().epoch,
            versions: sent.versions,
            pieces: sent.pieces,
            repairs: sent.repairs,
            caught_up: sent.caught_up,
            to_group: sender.grouped(),
            refused: sender.heard().refused,
            ..status
        }
    }
}
