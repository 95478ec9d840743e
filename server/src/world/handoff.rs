//! Answers that cross to a thread for clients, many at one wake.
//!
//! Waking a task of another runtime costs a system call, and the woken thread begins with the first
//! answer while the others still come: a hundred answers of one apply would be a hundred calls, and
//! on their way out a hundred packets. So an answer is laid down where its asker's thread looks, and
//! the thread is woken once for all that lie there. It then answers all of them before it writes to
//! any connection.

use std::{cell::RefCell, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

thread_local! {
    static DESK: RefCell<Option<Arc<Desk>>> = const { RefCell::new(None) };
}

/// Where answers for one thread lie.
#[derive(Default)]
struct Desk {
    laid: Mutex<Laid>,
    wake: Notify,
}

#[derive(Default)]
struct Laid {
    answers: Vec<Box<dyn FnOnce() + Send>>,
    /// Nobody looks any more.
    closed: bool,
}

/// The sending half of [`channel`].
pub struct Sender<T> {
    desk: Option<Arc<Desk>>,
    answer: oneshot::Sender<T>,
}

/// A channel for one answer to the calling thread. On a thread that does not [`serve`], the answer
/// goes straight to its task.
#[must_use]
pub fn channel<T: Send + 'static>() -> (Sender<T>, oneshot::Receiver<T>) {
    let (answer, answered) = oneshot::channel();
    (Sender { desk: DESK.with_borrow(Clone::clone), answer }, answered)
}

impl<T: Send + 'static> Sender<T> {
    /// Hands the answer over; lost if nobody waits for it any more.
    pub fn send(self, value: T) {
        let Self { desk, answer } = self;
        let hand_over = move || drop(answer.send(value));
        match desk {
            Some(desk) => desk.lay(hand_over),
            None => hand_over(),
        }
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }
}

impl Desk {
    fn lay(&self, answer: impl FnOnce() + Send + 'static) {
        let mut laid = self.laid.lock();
        if laid.closed {
            drop(laid);
            return answer();
        }
        laid.answers.push(Box::new(answer));
        let first = laid.answers.len() == 1;
        drop(laid);
        if first {
            self.wake.notify_one();
        }
    }
}

/// Runs `served` on the current thread, whose askers from now on get their answers in batches.
///
/// To be called on a runtime of one thread.
pub async fn serve<T>(served: impl Future<Output = T>) -> T {
    let desk = Arc::new(Desk::default());
    let _open = Open(Arc::clone(&desk));
    DESK.set(Some(Arc::clone(&desk)));
    let look = async {
        loop {
            desk.wake.notified().await;
            let answers = std::mem::take(&mut desk.laid.lock().answers);
            answers.into_iter().for_each(|answer| answer());
        }
    };
    tokio::select! {
        biased;
        never = look => never,
        outcome = served => outcome,
    }
}

/// Closes a thread's desk on drop.
struct Open(Arc<Desk>);

impl Drop for Open {
    fn drop(&mut self) {
        DESK.set(None);
        let left = {
            let mut laid = self.0.laid.lock();
            laid.closed = true;
            std::mem::take(&mut laid.answers)
        };
        left.into_iter().for_each(|answer| answer());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_thread() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn answers_laid_down_together_are_all_there_at_once() {
        one_thread().block_on(serve(async {
            let (senders, mut answers): (Vec<_>, Vec<_>) = (0..100).map(|_| channel()).unzip();
            let last = answers.pop().expect("a hundred");
            let other = std::thread::spawn(move || {
                let desk = senders[0].desk.clone().expect("a desk");
                // As if the asker's thread were busy meanwhile.
                let held = desk.laid.lock();
                let waker = std::thread::spawn({
                    let desk = Arc::clone(&desk);
                    move || desk.wake.notify_one()
                });
                waker.join().expect("wakes");
                drop(held);
                for (index, sender) in senders.into_iter().enumerate() {
                    sender.send(index);
                }
            });
            other.join().expect("answers");
            assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "not yet");
            assert_eq!(last.await, Ok(99));
            for (index, answer) in answers.iter_mut().enumerate() {
                assert_eq!(answer.try_recv(), Ok(index), "before the last one's task went on");
            }
        }));
    }

    #[test]
    fn a_thread_that_does_not_serve_is_answered_directly() {
        let (sender, mut answer) = channel();
        sender.send(1);
        assert_eq!(answer.try_recv(), Ok(1));
    }

    #[test]
    fn answers_that_come_after_the_end_are_not_lost() {
        let (early, late, mut first, mut second) = one_thread().block_on(serve(async {
            let (early, first) = channel();
            let (late, second) = channel();
            (early, late, first, second)
        }));
        early.send(1);
        assert!(DESK.with_borrow(Option::is_none));
        late.send(2);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(1), Ok(2)));
    }

    #[test]
    fn a_sender_that_is_dropped_says_so() {
        one_thread().block_on(serve(async {
            let (sender, answer) = channel::<u8>();
            drop(sender);
            assert!(answer.await.is_err());
        }));
    }
}
