//! A writer that counts and a reader that looks, with a broker between them, in one
//! process: `cargo run -p stateplane-region --example counters`.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stateplane_region::{Broker, Host, Limits, Name, Reader, Spec, Writer};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Counters {
    packets: u64,
    by_port: [u64; 1024],
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("region-example-{}", std::process::id()));
    let mut broker = Broker::open(&dir, Limits::default())?;
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| broker.run(&stop));
        let result = count_and_look(&dir);
        stop.store(true, Ordering::Release);
        result
    });
    std::fs::remove_dir_all(&dir)?;
    result
}

fn count_and_look(dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let host = Host::connect(dir)?;
    let name: Name = "/example/here/counter/ports".parse()?;
    let spec = Spec::of::<Counters>()
        .schema("counters-v1")
        .interval(Duration::from_micros(10));
    let mut counters: Writer<Counters> = host.create(&name, &spec)?;
    counters.publish()?;
    let reader: Reader<Counters> = host.attach(&name, "counters-v1")?;

    let (start, mut shown) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(500) {
        // The writer's loop: change, and check in.
        *counters.edit(|c| &c.packets) += 1;
        let port = counters.get().packets as usize * 7 % 1024;
        *counters.edit(|c| &c.by_port[port]) += 1;
        counters.check_in()?;

        // A reader's look, usually in another process.
        let passed = start.elapsed().as_millis() / 100;
        if passed > shown {
            shown = passed;
            let seen = reader.snapshot()?;
            let sum: u64 = seen.by_port.iter().sum();
            assert_eq!(sum, seen.packets, "one version, whole");
            let edition = seen.edition();
            println!(
                "version {:>6}: {} packets, {:?} old",
                edition.version,
                seen.packets,
                edition.age()
            );
        }
    }
    Ok(())
}
