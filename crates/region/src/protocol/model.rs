//! The protocol under every interleaving and every order of memory that C11 allows
//! (loom), with images of two words. The broken variants show that the model would see.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

use super::*;

type Snapshot = Option<([u64; 2], Control)>;

struct Model {
    control: AtomicU64,
    stamps: [AtomicU64; 2],
    images: [[AtomicU64; 2]; 2],
}

impl Model {
    fn new() -> Arc<Self> {
        let word = || AtomicU64::new(0);
        Arc::new(Self {
            control: word(),
            stamps: [word(), word()],
            images: [[word(), word()], [word(), word()]],
        })
    }

    fn cell(&self, cell: Cell) -> &AtomicU64 {
        match cell {
            Cell::Control => &self.control,
            Cell::Stamp(image) => &self.stamps[image],
        }
    }

    /// Version v of the region is [v, v].
    fn fill(&self, next: Control) {
        for word in &self.images[next.image] {
            word.store(next.version, Relaxed);
        }
    }

    fn publish(&self, version: u64) {
        let next = at(version);
        begin(self, next);
        self.fill(next);
        finish(self, next);
        flip(self, next);
    }

    fn words(&self, image: usize) -> [u64; 2] {
        let words = &self.images[image];
        [words[0].load(Relaxed), words[1].load(Relaxed)]
    }

    fn snapshot(&self) -> Snapshot {
        read(self, 2, |image| self.words(image))
    }
}

fn at(version: u64) -> Control {
    Control {
        version,
        image: (version % 2) as usize,
    }
}

impl Cells for Model {
    fn load(&self, cell: Cell, order: Ordering) -> u64 {
        self.cell(cell).load(order)
    }

    fn store(&self, cell: Cell, value: u64, order: Ordering) {
        self.cell(cell).store(value, order);
    }

    fn fence(&self, order: Ordering) {
        fence(order);
    }

    fn images(&self) -> usize {
        MAX_IMAGES
    }
}

/// A reader beside a writer that does `write`, after version 1: whatever it accepts is
/// whole, is what the control word named, and never older than what it saw before.
fn explore(write: fn(&Model)) {
    explore_with(write, Model::snapshot);
}

fn explore_with(write: fn(&Model), snapshot: fn(&Model) -> Snapshot) {
    let mut options = loom::model::Builder::new();
    options.preemption_bound = Some(3);
    options.check(move || {
        let model = Model::new();
        model.publish(1);
        let shared = Arc::clone(&model);
        let writer = thread::spawn(move || write(&shared));
        let mut newest = 0;
        for _ in 0..2 {
            if let Some((words, control)) = snapshot(&model) {
                assert_eq!(words, [control.version; 2], "torn");
                assert!(control.version >= newest, "went back");
                newest = control.version;
            }
        }
        writer.join().expect("the writer ends");
        // With the writer gone, the last version in force is readable at once.
        let last = Control::load(&*model).expect("published");
        let read = model.snapshot().expect("nobody disturbs");
        assert_eq!(read, ([last.version; 2], last));
        assert!(last.version >= newest, "a reader saw more than survives");
    });
}

#[test]
fn snapshots_are_whole_and_never_go_back() {
    explore(|model| (2..=3).for_each(|version| model.publish(version)));
}

/// The image that a crash leaves behind is written again by the next writer.
#[test]
fn a_writer_may_die_anywhere() {
    explore(|model| {
        model.publish(2);
        begin(model, at(3));
        model.images[1][0].store(3, Relaxed);
    });
    explore(|model| {
        model.publish(2);
        begin(model, at(3));
        model.fill(at(3));
        finish(model, at(3)); // and never in force
    });
}

#[test]
#[should_panic(expected = "torn")]
fn without_begin_readers_tear() {
    explore(|model| {
        for version in 2..=3 {
            model.fill(at(version));
            finish(model, at(version));
            flip(model, at(version));
        }
    });
}

#[test]
#[should_panic(expected = "torn")]
fn without_the_fence_readers_tear() {
    explore(|model| {
        for version in 2..=3 {
            model.store(Cell::Stamp(at(version).image), 2 * version - 1, Relaxed);
            model.fill(at(version));
            finish(model, at(version));
            flip(model, at(version));
        }
    });
}

/// A reader that takes whatever finished version it finds in an image.
#[test]
#[should_panic(expected = "a reader saw more than survives")]
fn a_reader_must_not_run_ahead_of_the_control_word() {
    let write = |model: &Model| {
        model.publish(2);
        begin(model, at(3));
        model.fill(at(3));
        finish(model, at(3));
    };
    explore_with(write, |model| {
        let control = Control::load(model)?;
        let version = model.load(Cell::Stamp(control.image), Acquire) / 2;
        let found = Control { version, ..control };
        read_image(model, found, |image| model.words(image)).map(|words| (words, found))
    });
}

/// A reader that takes what it copied without another look at the stamp.
#[test]
#[should_panic(expected = "torn")]
fn a_reader_must_look_at_the_stamp_again() {
    let write = |model: &Model| (2..=3).for_each(|version| model.publish(version));
    explore_with(write, |model| {
        let control = Control::load(model)?;
        let same = model.load(Cell::Stamp(control.image), Acquire) == 2 * control.version;
        same.then(|| (model.words(control.image), control))
    });
}

/// A reader that looks, but whose copy may come after.
#[test]
#[should_panic(expected = "torn")]
fn without_their_own_fence_readers_tear() {
    let write = |model: &Model| (2..=3).for_each(|version| model.publish(version));
    explore_with(write, |model| {
        let control = Control::load(model)?;
        let stamp = |order| model.load(Cell::Stamp(control.image), order);
        let before = stamp(Acquire);
        let words = model.words(control.image);
        let same = before == 2 * control.version && stamp(Relaxed) == before;
        same.then_some((words, control))
    });
}
