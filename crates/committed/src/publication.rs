//! The replica's side: a copy of its tables in a region.

use stateplane_region::{Fenced, LINE, Spec, Writer};
use stateplane_state::settled::{Image, Position};
use zerocopy::IntoBytes;

use crate::layout::{self, Head, Placed, Row, Shared, Unfit, View, each_shape, padded};

/// What a publication has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Versions published.
    pub published: u64,
}

/// Tables of a replica in a region of its machine.
#[derive(Debug)]
pub struct Publication {
    region: Writer<[u8]>,
    tables: Vec<Placed>,
    view: View,
    tally: Tally,
    fenced: Option<Fenced>,
}

impl Publication {
    /// The region that these tables need.
    pub fn spec(tables: &[Shared<'_>]) -> Result<Spec, Unfit> {
        layout::spec(tables)
    }

    /// Begins anew in a region of that [`Self::spec`], whatever it held. What was published
    /// there stays to be read until the first [`Image::show`].
    ///
    /// # Panics
    /// If the region is shorter than the tables need.
    pub fn new(mut region: Writer<[u8]>, tables: &[Shared<'_>]) -> Result<Self, Unfit> {
        let (rows, placed, len) = layout::plan(tables)?;
        assert!(region.bytes().len() >= len, "a region of these tables");
        for (table, row) in rows.iter().enumerate() {
            set(&mut region, Row::at(table), row.as_bytes());
        }
        let mut new = Self {
            region,
            tables: placed,
            view: View::default(),
            tally: Tally::default(),
            fenced: None,
        };
        new.begin();
        Ok(new)
    }

    /// What is shown from now on was final in this view.
    pub fn seen_in(&mut self, view: View) {
        self.view = view;
    }

    /// What it has done.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Bytes of the region.
    pub fn bytes(&self) -> usize {
        self.region.bytes().len()
    }

    /// Rows of a table.
    pub fn rows(&self, table: usize) -> usize {
        let bytes = self.region.bytes();
        self.tables
            .get(table)
            .map_or(0, |placed| each_shape!(placed, map => map.len(bytes)))
    }

    /// Rows of a table that did not fit since the copy was begun.
    pub fn left_out(&self, table: usize) -> u64 {
        let at = Row::at(table) + Row::LEFT_OUT;
        let known = self.region.bytes().get(at..at + size_of::<u64>());
        known.map_or(0, |bytes| {
            u64::from_ne_bytes(bytes.try_into().expect("a word"))
        })
    }

    /// Whether another writer has the region: nobody reads what this one writes.
    pub fn fenced(&self) -> Option<Fenced> {
        self.fenced
    }

    /// The region, to hand its memory to readers.
    pub fn region(&self) -> &Writer<[u8]> {
        &self.region
    }

    /// A row of the table is not in the copy: from now on nothing is known to be absent.
    fn leave_out(&mut self, table: usize) {
        let at = Row::at(table) + Row::LEFT_OUT;
        let count = self.left_out(table).saturating_add(1);
        set(&mut self.region, at, count.as_bytes());
    }
}

fn set(region: &mut Writer<[u8]>, at: usize, bytes: &[u8]) {
    region.bytes_mut(at, bytes.len()).copy_from_slice(bytes);
}

impl Image for Publication {
    fn begin(&mut self) {
        (0..self.tables.len()).for_each(|table| self.clear(table));
    }

    fn put(&mut self, table: usize, key: &[u8], value: &[u8]) {
        let Some(placed) = self.tables.get(table).copied() else {
            return;
        };
        let region = self.region.publisher();
        let fits = each_shape!(placed, map => match (padded(key), padded(value)) {
            (Some(key), Some(value)) => map.insert(region, &key, &value).is_ok(),
            // A former value would be a wrong one.
            (Some(key), None) => {
                map.remove(region, &key);
                false
            }
            _ => false,
        });
        if !fits {
            self.leave_out(table);
        }
    }

    fn remove(&mut self, table: usize, key: &[u8]) {
        let Some(placed) = self.tables.get(table).copied() else {
            return;
        };
        let region = self.region.publisher();
        each_shape!(placed, map => if let Some(key) = padded(key) {
            map.remove(region, &key);
        });
    }

    fn clear(&mut self, table: usize) {
        let Some(placed) = self.tables.get(table) else {
            return;
        };
        let (at, len) = each_shape!(placed, map => (map.at(), map.bytes()));
        // Lines that hold nothing stay as they are: only what changes is published.
        for line in (at..at + len).step_by(LINE) {
            let end = (line + LINE).min(at + len);
            if self.region.bytes()[line..end].iter().any(|byte| *byte != 0) {
                self.region.bytes_mut(line, end - line).fill(0);
            }
        }
        set(
            &mut self.region,
            Row::at(table) + Row::LEFT_OUT,
            0u64.as_bytes(),
        );
    }

    fn show(&mut self, at: Position) {
        let head = Head {
            tables: self.tables.len() as u64,
            formation: self.view.formation,
            view: self.view.view,
            slot: at.slot,
            time: at.time.as_nanos(),
        };
        set(&mut self.region, 0, head.as_bytes());
        match self.region.publish() {
            Ok(_) => self.tally.published += 1,
            Err(fenced) => self.fenced = Some(fenced),
        }
    }
}
