//! The load on peers that speak over TCP: many connections on one thread, each with one
//! operation under way, answers recognised and not interpreted. It is as light as a
//! client can be, for it shares a processor with what is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::measure::{Meter, Sample, Spans, Tally};

/// Longest silence of a peer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to talk to a peer.
#[derive(Clone, Copy)]
pub(super) struct Talk {
    pub(super) address: SocketAddr,
    /// Appends the operation with this number.
    pub(super) ask: fn(u64, &mut Vec<u8>),
    /// Whether an answer is complete.
    pub(super) answered: fn(&[u8]) -> bool,
    /// Whether it says that the operation was done.
    pub(super) well: fn(&[u8]) -> bool,
}

/// An error that says how to get the program, unless it can be started.
pub(super) fn installed(program: &str, how: &str) -> Result<()> {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.status() {
        Ok(_) => Ok(()),
        Err(_) => bail!("{program} is not installed: {how}"),
    }
}

/// One exchange, on a connection of its own.
pub(super) fn once(
    to: SocketAddr,
    ask: &[u8],
    answered: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(ask)?;
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    while !answered(&got) {
        match stream.read(&mut buffer)? {
            0 => bail!("the peer hung up"),
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(got)
}

/// A connection and the operation under way on it.
struct Line {
    stream: TcpStream,
    got: Vec<u8>,
    asked: Instant,
}

impl Line {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let got = Vec::new();
        Ok(Self {
            stream,
            got,
            asked: Instant::now(),
        })
    }

    /// Operations are so small that a socket with nothing under way takes one whole.
    fn ask(&mut self, talk: &Talk, serial: u64) -> Result<()> {
        let mut out = Vec::new();
        (talk.ask)(serial, &mut out);
        self.got.clear();
        self.asked = Instant::now();
        Ok(self.stream.write_all(&out)?)
    }

    /// Reads what is there; true when the answer is complete.
    fn read(&mut self, talk: &Talk) -> Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the peer hung up"),
                Ok(n) => self.got.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if (talk.answered)(&self.got) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Connections, and which of them have something to read.
struct Lines {
    all: Vec<Line>,
    watch: OwnedFd,
}

impl Lines {
    fn open(address: SocketAddr, count: usize) -> Result<Self> {
        let all: Result<Vec<_>> = (0..count).map(|_| Line::open(address)).collect();
        let all = all.context("cannot connect")?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (n, line) in all.iter().enumerate() {
            let data = epoll::EventData::new_u64(n as u64);
            epoll::add(&watch, &line.stream, data, epoll::EventFlags::IN)?;
        }
        Ok(Self { all, watch })
    }

    /// Those that can be read, once one can.
    fn ready(&self, events: &mut Vec<epoll::Event>) -> Result<()> {
        events.clear();
        let patience = Timespec::try_from(PATIENCE)?;
        epoll::wait(&self.watch, spare_capacity(events), Some(&patience))?;
        if events.is_empty() {
            bail!("no answer within {PATIENCE:?}");
        }
        Ok(())
    }
}

/// Keeps `outstanding` operations under way, each on its connection.
pub(super) fn closed_loop<'a>(
    talk: Talk,
    outstanding: usize,
    spans: Spans,
    meter: impl FnOnce() -> Result<Meter<'a>>,
) -> Result<Sample> {
    let mut lines = Lines::open(talk.address, outstanding)?;
    let mut tally = Tally::new()?;
    run(&talk, &mut lines, spans.warm, &mut tally)?;
    let meter = meter()?;
    tally.begin();
    run(&talk, &mut lines, spans.counted, &mut tally)?;
    Sample::take(&tally, &meter)
}

/// The closed loop. What is under way at the end is waited for.
fn run(talk: &Talk, lines: &mut Lines, span: Duration, tally: &mut Tally) -> Result<()> {
    let until = Instant::now() + span;
    let mut events = Vec::with_capacity(lines.all.len().max(1));
    let mut serial = 0;
    for line in &mut lines.all {
        serial += 1;
        line.ask(talk, serial)?;
    }
    let mut open = lines.all.len();
    while open > 0 {
        lines.ready(&mut events)?;
        for event in &events {
            let line = &mut lines.all[usize::try_from(event.data.u64())?];
            if !line.read(talk)? {
                continue;
            }
            tally.add(line.asked, (talk.well)(&line.got));
            if Instant::now() < until {
                serial += 1;
                line.ask(talk, serial)?;
            } else {
                open -= 1;
            }
        }
    }
    Ok(())
}
