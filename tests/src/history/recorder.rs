//! Writing down calls while they happen.

use std::{
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use super::{Answer, Completion, Operation, Request};

/// Names a call that was begun.
#[derive(Clone, Copy, Debug)]
pub struct OperationId(usize);

/// A history in the making, shared by all clients.
///
/// Ordering: the clock is one counter. A call takes its first tick before it is sent and its second
/// after its answer is in, so when one call's second tick is below another's first, the one had
/// ended in real time before the other began.
#[derive(Default)]
pub struct Recorder {
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl Recorder {
    /// Before the call is sent. It counts as unknown until one of the others is called.
    pub fn invoke(&self, client: usize, request: Request) -> OperationId {
        let mut operations = self.lock();
        let invoked = self.clock.fetch_add(1, SeqCst);
        let completion = Completion::Unknown;
        operations.push(Operation { client, request, invoked, completion });
        OperationId(operations.len() - 1)
    }

    /// After its answer is in.
    pub fn ok(&self, id: OperationId, answer: Answer, revision: Option<u64>) {
        let at = self.clock.fetch_add(1, SeqCst);
        self.lock()[id.0].completion = Completion::Ok { at, answer, revision };
    }

    /// When the server promised that it had no effect.
    pub fn not_applied(&self, id: OperationId) {
        self.lock()[id.0].completion = Completion::NotApplied;
    }

    /// How many calls were answered so far.
    pub fn answered(&self) -> usize {
        self.lock().iter().filter(|operation| operation.answer().is_some()).count()
    }

    /// How many single calls have changed something so far.
    pub fn changed(&self) -> usize {
        let changes = |answer: &Answer| match answer {
            Answer::Written | Answer::Range(..) | Answer::Previous(_) => true,
            Answer::Conditional(done) => done.is_ok(),
            Answer::Deleted(there) => *there,
            Answer::Value(_) | Answer::Txn(..) => false,
        };
        self.lock().iter().filter_map(Operation::answer).filter(|answer| changes(answer)).count()
    }

    /// Everything so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    /// One line for each call, in the order in which they were sent.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for operation in self.lock().iter() {
            writeln!(text, "{operation:?}").expect("a string takes everything");
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().expect("nobody panics while holding the history")
    }
}
