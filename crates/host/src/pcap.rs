//! A port over capture files: received packets are read from one, sent packets
//! written to another. Runs a function offline over recorded traffic.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};

use crate::frame::{Frame, FramePool};
use crate::port::{Mac, Port, PortStats};

/// A port whose far side is a pair of capture files.
pub struct PcapPort {
    name: String,
    mac: Mac,
    input: Option<PcapReader<BufReader<File>>>,
    output: Option<PcapWriter<BufWriter<File>>>,
    time: Duration,
    failure: Option<io::Error>,
    stats: PortStats,
}

impl PcapPort {
    /// Reads from `input` and writes to `output`, which is created; either may be
    /// absent. Captures of other links than Ethernet are refused.
    pub fn open(input: Option<&Path>, output: Option<&Path>) -> io::Result<Self> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let reader = input.map(|path| read(path).map_err(|error| named(path, error)));
        let writer = output.map(|path| write(path).map_err(|error| named(path, error)));
        Ok(Self {
            name: input
                .or(output)
                .map_or_else(String::new, |path| path.display().to_string()),
            mac: Mac([2, 0, 0, 0, 0, 0xca]),
            input: reader.transpose()?,
            output: writer.transpose()?,
            time: Duration::ZERO,
            failure: None,
            stats: PortStats::default(),
        })
    }

    /// When the last received packet was captured: the run's clock. Sent packets are
    /// stamped with it.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Whether every packet has been read.
    pub fn is_exhausted(&self) -> bool {
        self.input.is_none()
    }

    /// Completes the output and reports the first failure of either file.
    pub fn close(mut self) -> io::Result<()> {
        if let Some(writer) = self.output.take() {
            writer.into_writer().flush()?;
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Ends a direction that failed; the first failure is kept for [`Self::close`].
    fn fail(&mut self, error: PcapError) {
        self.failure.get_or_insert(to_io(error));
    }
}

fn read(path: &Path) -> io::Result<PcapReader<BufReader<File>>> {
    let reader = PcapReader::new(BufReader::new(File::open(path)?)).map_err(to_io)?;
    match reader.header().datalink {
        DataLink::ETHERNET => Ok(reader),
        other => {
            let text = format!("the capture is of {other:?}, not of Ethernet");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn write(path: &Path) -> io::Result<PcapWriter<BufWriter<File>>> {
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ..PcapHeader::default()
    };
    PcapWriter::with_header(BufWriter::new(File::create(path)?), header).map_err(to_io)
}

fn to_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

impl Port for PcapPort {
    fn receive(&mut self, pool: &mut FramePool, max: usize, into: &mut Vec<Frame>) -> usize {
        let mut count = 0;
        while count < max && pool.census().free > 0 {
            let Some(reader) = &mut self.input else { break };
            match reader.next_packet() {
                Some(Ok(packet)) => {
                    self.time = packet.timestamp;
                    match pool.take_with(&packet.data) {
                        Some(frame) => {
                            self.stats.received += 1;
                            self.stats.received_bytes += packet.data.len() as u64;
                            into.push(frame);
                            count += 1;
                        }
                        None => self.stats.dropped_other += 1,
                    }
                }
                Some(Err(error)) => {
                    self.input = None;
                    self.fail(error);
                }
                None => self.input = None,
            }
        }
        count
    }

    fn transmit(&mut self, pool: &mut FramePool, from: &mut Vec<Frame>) -> usize {
        let count = from.len();
        for frame in from.drain(..) {
            let bytes = pool.bytes(&frame);
            let written = self.output.as_mut().map_or(Ok(0), |writer| {
                writer.write_packet(&PcapPacket::new(self.time, bytes.len() as u32, bytes))
            });
            self.stats.sent += 1;
            self.stats.sent_bytes += bytes.len() as u64;
            if let Err(error) = written {
                self.output = None;
                self.fail(error);
            }
            pool.give(frame);
        }
        count
    }

    /// Nothing to hurry: the file is complete after [`PcapPort::close`].
    fn flush(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn mtu(&self) -> u32 {
        1500
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PoolConfig;

    #[test]
    fn packets_survive_a_trip_through_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trip.pcap");
        let mut pool = FramePool::new(PoolConfig {
            frames: 8,
            frame_size: 2048,
        })
        .unwrap();
        let mut out = PcapPort::open(None, Some(&path)).unwrap();
        let mut batch: Vec<Frame> = (1..6u8)
            .map(|n| pool.take_with(&vec![n; 60 * n as usize]).unwrap())
            .collect();
        assert_eq!(out.transmit(&mut pool, &mut batch), 5);
        out.close().unwrap();
        assert_eq!(pool.census().free, 8, "sent frames come home");

        let mut back = PcapPort::open(Some(&path), None).unwrap();
        assert_eq!(back.receive(&mut pool, 3, &mut batch), 3);
        assert_eq!(back.receive(&mut pool, 3, &mut batch), 2);
        assert_eq!(back.receive(&mut pool, 3, &mut batch), 0);
        assert!(back.is_exhausted());
        for (frame, n) in batch.drain(..).zip(1u8..) {
            assert_eq!(pool.bytes(&frame), vec![n; 60 * n as usize]);
            pool.give(frame);
        }
        back.close().unwrap();
    }

    #[test]
    fn a_truncated_file_ends_the_run_with_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short.pcap");
        let mut pool = FramePool::new(PoolConfig {
            frames: 8,
            frame_size: 2048,
        })
        .unwrap();
        let mut out = PcapPort::open(None, Some(&path)).unwrap();
        let mut batch = vec![pool.take_with(&[7; 100]).unwrap()];
        out.transmit(&mut pool, &mut batch);
        out.close().unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 10]).unwrap();

        let mut back = PcapPort::open(Some(&path), None).unwrap();
        assert_eq!(back.receive(&mut pool, 8, &mut batch), 0);
        assert!(back.is_exhausted());
        assert!(back.close().is_err());
    }

    #[test]
    fn what_is_not_a_capture_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not.pcap");
        std::fs::write(&path, b"certainly not a capture file").unwrap();
        let error = PcapPort::open(Some(&path), None).err().unwrap();
        assert!(error.to_string().contains("not.pcap"), "{error}");
    }
}
