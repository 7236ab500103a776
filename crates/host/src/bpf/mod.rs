//! XDP programs: compiled from `xdp/` at build time, embedded, loaded and attached
//! here.
//!
//! * [`bench`]: the two ends of the packet benchmarks
//! * [`fastpath`]: forwards the packets of decided flows, and hands a network function's other
//!   packets to its AF_XDP sockets
//! * [`limits`]: what forwarding in XDP can reach at most, for the benchmarks
//! * [`requests`]: the two ends of the sequencer's benchmark
//! * [`sequencer`]: stamps requests and multicasts them to all replicas
//! * [`steering`]: the switch that gives each flow to one instance
//! * [`Pass`]: passes everything, so that a veth receives redirected frames
//!
//! Programs are attached by a link that this process holds: when the process ends,
//! however it ends, the kernel detaches them. Native mode (in the driver) is tried
//! first, then generic mode (in the stack, slower); [`Attachment::mode`] says which.

pub mod bench;
#[cfg(test)]
mod bench_tests;
pub mod fastpath;
mod generator;
pub mod limits;
mod prefix;
pub mod requests;
pub mod sequencer;
pub mod steering;

use std::fmt;
use std::io;

use aya::maps::{MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfError};

use crate::ifreq;

/// The object compiled from `xdp/NAME.c`, aligned as the loader needs it.
macro_rules! object {
    ($name:literal) => {
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $name, ".o"))
    };
}
use object;

/// Why a program could not be loaded, attached or configured.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel did not take the program or one of its maps.
    #[error("loading the XDP program '{program}': {}{}", chain(.source.as_ref()), permission_hint(.source.as_ref()))]
    Load {
        /// Its name.
        program: &'static str,
        /// What the loader says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Neither native nor generic mode works on the interface.
    #[error("{interface}: attaching XDP: native mode: {native}; generic mode: {generic}")]
    Attach {
        /// Its name.
        interface: String,
        /// Why not native.
        native: String,
        /// Why not generic.
        generic: String,
    },
    /// The interface does not exist or cannot be asked.
    #[error("{interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("map '{map}' of an XDP program: {}", chain(.source.as_ref()))]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More than the program's maps have room for.
    #[error("{0}")]
    TooMany(String),
}

impl BpfError {
    /// Whether somebody else's program is on the interface.
    fn is_busy(&self) -> bool {
        let busy = io::Error::from(rustix::io::Errno::BUSY).to_string();
        match self {
            Self::Attach {
                native, generic, ..
            } => native.contains(&busy) || generic.contains(&busy),
            _ => false,
        }
    }
}

/// An error with its causes; the loader's own text often stops at the first.
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

fn permission_hint(error: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    let text = chain(error);
    if text.contains("os error 1)") || text.contains("os error 13)") {
        " (run as root, or with CAP_BPF and CAP_NET_ADMIN)"
    } else {
        ""
    }
}

/// Where in the kernel a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// In the network stack: works everywhere, but slower.
    Generic,
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Where in the kernel a program is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachAs {
    /// In the driver if it can, else in the stack.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack, whatever the driver can.
    Generic,
}

/// A program on an interface. Dropping it, or the end of the process, detaches.
#[derive(Debug)]
pub struct Attachment {
    interface: String,
    mode: AttachMode,
    _link: FdLink,
}

impl Attachment {
    /// Where in the kernel the program runs.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }
}

/// Loads an object's maps, none of its programs yet.
fn load(program: &'static str, object: &[u8]) -> Result<Ebpf, BpfError> {
    Ebpf::load(object).map_err(|error: EbpfError| BpfError::Load {
        program,
        source: error.into(),
    })
}

/// An error of program `program`.
fn load_error(program: &'static str) -> impl Fn(ProgramError) -> BpfError {
    move |error| BpfError::Load {
        program,
        source: error.into(),
    }
}

/// Has the kernel verify one program of a loaded object, unless it has.
fn verify<'a>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut Xdp, BpfError> {
    let failed = load_error(program);
    let found = ebpf
        .program_mut(program)
        .expect("the embedded object has the program");
    let xdp: &mut Xdp = found.try_into().map_err(&failed)?;
    if xdp.fd().is_err() {
        xdp.load().map_err(failed)?;
    }
    Ok(xdp)
}

/// A program that was verified.
fn loaded<'a>(ebpf: &'a Ebpf, program: &'static str) -> Result<&'a Xdp, BpfError> {
    let found = ebpf
        .program(program)
        .expect("the embedded object has the program");
    found.try_into().map_err(load_error(program))
}

/// Attaches natively if the driver can, else generically.
fn attach(xdp: &mut Xdp, interface: &str) -> Result<Attachment, BpfError> {
    attach_as(xdp, interface, AttachAs::Auto)
}

fn attach_as(xdp: &mut Xdp, interface: &str, how: AttachAs) -> Result<Attachment, BpfError> {
    let ifindex = ifreq::index(interface).map_err(|source| BpfError::Interface {
        interface: interface.to_owned(),
        source,
    })?;
    let mut try_mode = |mode, flags| {
        attach_to(xdp, ifindex, flags).map(|link| Attachment {
            interface: interface.to_owned(),
            mode,
            _link: link,
        })
    };
    const NOT_TRIED: &str = "not tried, as the configuration says";
    let native = match how {
        AttachAs::Generic => Err(NOT_TRIED.to_owned()),
        AttachAs::Auto | AttachAs::Native => try_mode(AttachMode::Native, XdpMode::Driver),
    };
    let native = match native {
        Ok(attachment) => {
            tracing::info!("{interface}: XDP program attached in native mode");
            return Ok(attachment);
        }
        Err(error) => error,
    };
    let generic = match how {
        AttachAs::Native => Err(NOT_TRIED.to_owned()),
        AttachAs::Auto | AttachAs::Generic => try_mode(AttachMode::Generic, XdpMode::Skb),
    };
    match generic {
        Ok(attachment) => {
            tracing::warn!(
                "{interface}: XDP program attached in generic mode, which is slower; native mode: \
                 {native}"
            );
            Ok(attachment)
        }
        Err(generic) => Err(BpfError::Attach {
            interface: interface.to_owned(),
            native,
            generic,
        }),
    }
}

fn attach_to(xdp: &mut Xdp, ifindex: u32, mode: XdpMode) -> Result<FdLink, String> {
    let text = |error: ProgramError| chain(&error);
    let id = xdp.attach_to_if_index(ifindex, mode).map_err(text)?;
    let link = xdp.take_link(id).map_err(text)?;
    // Where the kernel refuses a link the loader attaches for good, which would outlive
    // a crash: dropping that link detaches.
    FdLink::try_from(link).map_err(|_| "the kernel offers no link that ends with us".to_owned())
}

/// An error of map `map`.
fn map_error<E>(map: &'static str) -> impl FnOnce(E) -> BpfError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| BpfError::Map {
        map,
        source: error.into(),
    }
}

/// A map by name and type.
macro_rules! map_mut {
    ($ebpf:expr, $name:expr, $type:ty) => {
        <$type>::try_from(
            $ebpf
                .map_mut($name)
                .expect("the embedded object has the map"),
        )
        .map_err($crate::bpf::map_error::<aya::maps::MapError>($name))
    };
}
use map_mut;

/// The sums over all processors of a per-CPU array of `N` counters.
fn counters<const N: usize>(ebpf: &Ebpf) -> Result<[u64; N], BpfError> {
    let map = ebpf
        .map("counters")
        .expect("the embedded object has the map");
    let failed = map_error::<MapError>;
    let array: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed("counters"))?;
    let mut sums = [0; N];
    for (sum, index) in sums.iter_mut().zip(0u32..) {
        let values = array.get(&index, 0).map_err(failed("counters"))?;
        *sum = values.iter().sum();
    }
    Ok(sums)
}

/// What running a program on one frame gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRunOutcome {
    /// The program's return value: an `XDP_*` action, unless it is a probe.
    pub action: u32,
    /// The frame afterwards. Empty for live frames.
    pub frame: Vec<u8>,
    /// Mean time of one run.
    pub duration: std::time::Duration,
}

/// How [`test_run`] runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TestRunMode {
    /// The action is reported and not carried out.
    Dry,
    /// The kernel makes real frames, `batch` at a time, and carries out the action:
    /// the fastest packet generator there is.
    Live {
        /// Frames made at once, at most 256.
        batch: u32,
    },
}

/// Runs a loaded program `repeat` times on `frame`, at least 14 bytes
/// (`BPF_PROG_TEST_RUN`).
pub fn test_run(
    xdp: &Xdp,
    frame: &[u8],
    repeat: u32,
    mode: TestRunMode,
) -> Result<TestRunOutcome, ProgramError> {
    let mut out = vec![0; frame.len() + 256];
    let mut options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::new()
    };
    match mode {
        TestRunMode::Dry => options.data_out = Some(&mut out),
        TestRunMode::Live { batch } => {
            options.attrs = TestRunAttrs::new().xdp_live_frames(batch);
        }
    }
    let result = xdp.test_run(options)?;
    out.truncate(if mode == TestRunMode::Dry {
        result.data_size_out as usize
    } else {
        0
    });
    Ok(TestRunOutcome {
        action: result.return_value,
        frame: out,
        duration: result.duration,
    })
}

/// The program that passes everything.
#[derive(Debug)]
pub struct Pass {
    attachment: Attachment,
    _ebpf: Ebpf,
}

impl Pass {
    /// Attaches it to `interface`.
    pub fn attach(interface: &str) -> Result<Self, BpfError> {
        let mut ebpf = load("pass", object!("pass"))?;
        let attachment = attach(verify(&mut ebpf, "pass")?, interface)?;
        Ok(Self {
            attachment,
            _ebpf: ebpf,
        })
    }

    /// Where it is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }
}
