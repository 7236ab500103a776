//! One way through iceoryx2, in nanoseconds, as rows for `stateplane bench region`.

use std::error::Error;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::time::Instant;

use iceoryx2::prelude::*;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    set_log_level(LogLevel::Error);
    let mut args = std::env::args().skip(1);
    let mut arg = |usual: usize| args.next().map_or(Ok(usual), |text| text.parse());
    let rounds = arg(2_000)?;
    // Who starts this may be bound to one processor, and two that poll are not to share it.
    let allowed = allowed()?;
    let cpus = [arg(allowed[0])?, arg(allowed[allowed.len() - 1])?];
    let small = row("iceoryx2 64 B, one way", run::<64>(rounds, cpus)?);
    let page = row("iceoryx2 4 KiB, one way", run::<4096>(rounds, cpus)?);
    println!("[{small},{page}]");
    Ok(())
}

fn allowed() -> Outcome<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Question and answer, by halves, between threads on these processors.
fn run<const N: usize>(rounds: usize, [first, last]: [usize; 2]) -> Outcome<Vec<f64>> {
    let ready = Barrier::new(2);
    // Names of this process only: two runs at once do not meet.
    let name = |way: &str| format!("stateplane/bench/{}/{N}/{way}", std::process::id());
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| -> Outcome<()> {
            let mut end = End::<N>::new(&name("answers"), &name("questions"), last)?;
            ready.wait();
            for _ in 0..rounds {
                let value = end.receive()?;
                end.send(value)?;
            }
            // What was sent last is not to go away with its sender.
            ready.wait();
            Ok(())
        });
        let mut end = End::<N>::new(&name("questions"), &name("answers"), first)?;
        ready.wait();
        let mut all = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let start = Instant::now();
            end.send(round as u8)?;
            let answer = end.receive()?;
            all.push(start.elapsed().as_nanos() as f64 / 2.0);
            assert_eq!(answer, round as u8, "not the answer");
        }
        ready.wait();
        peer.join().expect("the peer does not panic")?;
        Ok(all)
    })
}

type Publisher<const N: usize> = iceoryx2::port::publisher::Publisher<ipc::Service, [u8; N], ()>;
type Subscriber<const N: usize> = iceoryx2::port::subscriber::Subscriber<ipc::Service, [u8; N], ()>;

struct End<const N: usize> {
    publisher: Publisher<N>,
    subscriber: Subscriber<N>,
    _node: Node<ipc::Service>,
}

impl<const N: usize> End<N> {
    fn new(to: &str, from: &str, cpu: usize) -> Outcome<Self> {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)?;
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let service = |name: &str| -> Outcome<_> {
            let service = node.service_builder(&name.try_into()?);
            Ok(service.publish_subscribe::<[u8; N]>().open_or_create()?)
        };
        Ok(Self {
            publisher: service(to)?.publisher_builder().create()?,
            subscriber: service(from)?.subscriber_builder().create()?,
            _node: node,
        })
    }

    fn send(&mut self, value: u8) -> Outcome<()> {
        self.publisher
            .loan_uninit()?
            .write_payload([value; N])
            .send()?;
        Ok(())
    }

    fn receive(&mut self) -> Outcome<u8> {
        loop {
            if let Some(sample) = self.subscriber.receive()? {
                let value = sample[0];
                assert!(sample.iter().all(|byte| *byte == value), "torn");
                return Ok(value);
            }
            spin_loop();
        }
    }
}

fn row(what: &str, mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
    let (min, p50, p99) = (at(0.0), at(0.5), at(0.99));
    format!(r#"{{"what":"{what}","min_ns":{min},"p50_ns":{p50},"p99_ns":{p99}}}"#)
}
