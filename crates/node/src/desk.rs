//! Where operators' wishes are left, by the admin API, for a thread that grants them in its turns.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// Wishes that wait for the other end's attention; more are refused.
const MAX_WISHES: usize = 16;

/// What an operator wants, and where the answer goes.
#[derive(Debug)]
pub struct Wish<W, A> {
    pub(crate) wanted: W,
    /// Who asked may have gone.
    pub(crate) answer: oneshot::Sender<A>,
}

/// The asking end.
#[derive(Clone, Debug)]
pub struct Desk<W, A> {
    wishes: SyncSender<Wish<W, A>>,
    patience: Duration,
}

impl<W, A> Desk<W, A> {
    /// A desk at which one waits so long for an answer, and the other end of it.
    pub fn new(patience: Duration) -> (Self, Receiver<Wish<W, A>>) {
        let (wishes, granted) = sync_channel(MAX_WISHES);
        (Self { wishes, patience }, granted)
    }

    /// Asks; `None` if there was no answer in time.
    pub async fn ask(&self, wanted: W) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        self.wishes.try_send(Wish { wanted, answer }).ok()?;
        let answered = tokio::time::timeout(self.patience, answered).await;
        answered.ok()?.ok()
    }
}
