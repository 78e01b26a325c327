//! The ledger: an append-only file of what the fleet sent and what was acknowledged.
//!
//! # Format
//!
//! The 8 bytes `TWLEDGR1`, then frames until the end of the file. A frame is the length of its
//! body (u32), the CRC-32C of its body (u32), and the body; all numbers are little-endian. The
//! first body is the [`Header`] as JSON. Each further body begins with a byte that says its kind:
//!
//! | kind | body after the kind |
//! |---|---|
//! | 1 sent | device (u32), sequence (u64), time in ms (i64), 20 values (f64 bits) |
//! | 2 acknowledged | device (u32), sequence (u64), time in ms (i64) |
//! | 3 sent again | device (u32), sequence (u64) |
//!
//! A message is entered as sent before its first PUBLISH is written to the socket, and as
//! acknowledged after its PUBACK was read.
//!
//! # What survives
//!
//! Entries are handed to the operating system, not synced, so they survive the death of the demo,
//! not a power cut. The death of the demo can cost the entries of its last moments: then messages
//! may be in the store of which the ledger knows nothing, never the other way round. An incomplete
//! frame at the end of the file is a torn tail and ends the ledger; a damaged frame before the end
//! is an error.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::profile::METRICS;

const MAGIC: [u8; 8] = *b"TWLEDGR1";

/// Greatest body; the header with its names is the largest.
const BODY_BYTES_MAX: u32 = 64 * 1024;

/// Entries that wait for the writer; a full queue holds the fleet back.
const QUEUE_ENTRIES_MAX: usize = 8_192;

/// Says whose entries a ledger holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Seed of the run.
    pub seed: u64,
    /// Devices of the fleet; entries name them by number, 0 up to this.
    pub devices: u32,
    /// Names of the metrics in the order of the values.
    pub metrics: Vec<String>,
}

/// Is one entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// The message was sent for the first time.
    Sent {
        /// Number of the device.
        device: u32,
        /// The device's sequence number.
        sequence: u64,
        /// Event time in milliseconds since the Unix epoch.
        ts_ms: i64,
        /// What was sent, in the order of [`Header::metrics`].
        values: [f64; METRICS],
    },
    /// The message got its first PUBACK.
    Acknowledged {
        /// Number of the device.
        device: u32,
        /// The device's sequence number.
        sequence: u64,
        /// Event time in milliseconds since the Unix epoch.
        ts_ms: i64,
    },
    /// The message was sent once more.
    SentAgain {
        /// Number of the device.
        device: u32,
        /// The device's sequence number.
        sequence: u64,
    },
}

/// Says why a ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file does not begin as a ledger does.
    #[error("{path} is no ledger of a demo")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A frame before the end of the file is damaged.
    #[error("{path} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The writer has ended after an error of its own, which [`Writer::finish`] tells.
    #[error("the ledger's writer has ended")]
    Ended,
}

impl Entry {
    fn encode(&self, body: &mut Vec<u8>) {
        match self {
            Self::Sent {
                device,
                sequence,
                ts_ms,
                values,
            } => {
                body.push(1);
                body.extend_from_slice(&device.to_le_bytes());
                body.extend_from_slice(&sequence.to_le_bytes());
                body.extend_from_slice(&ts_ms.to_le_bytes());
                for value in values {
                    body.extend_from_slice(&value.to_bits().to_le_bytes());
                }
            }
            Self::Acknowledged {
                device,
                sequence,
                ts_ms,
            } => {
                body.push(2);
                body.extend_from_slice(&device.to_le_bytes());
                body.extend_from_slice(&sequence.to_le_bytes());
                body.extend_from_slice(&ts_ms.to_le_bytes());
            }
            Self::SentAgain { device, sequence } => {
                body.push(3);
                body.extend_from_slice(&device.to_le_bytes());
                body.extend_from_slice(&sequence.to_le_bytes());
            }
        }
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut rest = Fields(body);
        let kind = rest.take::<1>()?[0];
        let device = u32::from_le_bytes(rest.take()?);
        let sequence = u64::from_le_bytes(rest.take()?);
        let entry = match kind {
            1 => {
                let ts_ms = i64::from_le_bytes(rest.take()?);
                let mut values = [0.0; METRICS];
                for value in &mut values {
                    *value = f64::from_bits(u64::from_le_bytes(rest.take()?));
                }
                Self::Sent {
                    device,
                    sequence,
                    ts_ms,
                    values,
                }
            }
            2 => {
                let ts_ms = i64::from_le_bytes(rest.take()?);
                Self::Acknowledged {
                    device,
                    sequence,
                    ts_ms,
                }
            }
            3 => Self::SentAgain { device, sequence },
            _ => return None,
        };
        rest.0.is_empty().then_some(entry)
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

/// Appends to a new ledger from a thread of its own.
#[derive(Debug)]
pub struct Writer {
    entries: mpsc::Sender<Entry>,
    thread: std::thread::JoinHandle<Result<(), Error>>,
}

/// Enters into the ledger; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    entries: mpsc::Sender<Entry>,
}

impl Handle {
    /// Enters; waits while [`QUEUE_ENTRIES_MAX`] entries wait. Cancelled, it enters nothing.
    ///
    /// # Errors
    /// [`Error::Ended`] when the writer has failed.
    pub async fn enter(&self, entry: Entry) -> Result<(), Error> {
        self.entries.send(entry).await.map_err(|_| Error::Ended)
    }
}

impl Writer {
    /// Creates the file, which must not exist, writes its header and starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, header: &Header) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::create_new(path).map_err(failed)?;
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        let body = serde_json::to_vec(header).expect("a header has string keys only");
        out.write_all(&MAGIC)
            .and_then(|()| write_frame(&mut out, &body))
            .map_err(failed)?;
        out.flush().map_err(failed)?;
        let (entries, queue) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                write_entries(queue, &mut out).map_err(|source| Error::Io { path, source })
            })
            .map_err(failed)?;
        Ok(Self { entries, thread })
    }

    /// Returns a handle to enter with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            entries: self.entries.clone(),
        }
    }

    /// Waits until all is written; every [`Handle`] must have been dropped, or this blocks.
    ///
    /// # Errors
    /// What ended the writer early.
    ///
    /// # Panics
    /// If the writer's thread panicked.
    pub fn finish(self) -> Result<(), Error> {
        drop(self.entries);
        self.thread
            .join()
            .expect("the ledger's thread does not panic")
    }
}

fn write_entries(mut queue: mpsc::Receiver<Entry>, out: &mut impl Write) -> io::Result<()> {
    let mut body = Vec::with_capacity(256);
    let mut entries = Vec::with_capacity(1_024);
    loop {
        let taken = queue.blocking_recv_many(&mut entries, 1_024);
        if taken == 0 {
            return out.flush();
        }
        for entry in entries.drain(..) {
            body.clear();
            entry.encode(&mut body);
            write_frame(out, &body)?;
        }
        // What was entered must not die with this process: give each batch to the system.
        out.flush()?;
    }
}

fn write_frame(out: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).expect("a body is far below 4 GiB");
    assert!(
        length <= BODY_BYTES_MAX,
        "a body of {length} bytes could not be read back"
    );
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(body).to_le_bytes())?;
    out.write_all(body)
}

/// Reads a ledger from front to end in constant memory.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    header: Header,
    offset: u64,
    length: u64,
    body: Vec<u8>,
    torn: bool,
}

impl Reader {
    /// Opens a ledger and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Foreign`], [`Error::Damaged`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(256 * 1024, file),
            header: Header {
                seed: 0,
                devices: 0,
                metrics: Vec::new(),
            },
            offset: MAGIC.len() as u64,
            length,
            body: Vec::new(),
            torn: false,
        };
        let foreign = || Error::Foreign {
            path: path.to_owned(),
        };
        if length < MAGIC.len() as u64 {
            return Err(foreign());
        }
        let mut magic = [0; MAGIC.len()];
        reader.file.read_exact(&mut magic).map_err(failed)?;
        if magic != MAGIC {
            return Err(foreign());
        }
        if !reader.read_body()? {
            return Err(foreign());
        }
        reader.header = serde_json::from_slice(&reader.body).map_err(|_| foreign())?;
        Ok(reader)
    }

    /// Returns the header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns true when the end was reached at an incomplete frame.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// Returns the next entry; `None` at the end or at the torn tail.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let start = self.offset;
        if !self.read_body()? {
            return Ok(None);
        }
        let entry = Entry::decode(&self.body)
            .ok_or_else(|| self.damaged(start, "an entry of unknown kind or length".to_owned()))?;
        let (Entry::Sent { device, .. }
        | Entry::Acknowledged { device, .. }
        | Entry::SentAgain { device, .. }) = entry;
        if device >= self.header.devices {
            return Err(self.damaged(start, format!("device {device} is not of this fleet")));
        }
        Ok(Some(entry))
    }

    /// Reads the body of the next frame; false at the end of the ledger.
    fn read_body(&mut self) -> Result<bool, Error> {
        let start = self.offset;
        let left = self.length - start;
        if left < 8 {
            self.torn = left > 0;
            return Ok(false);
        }
        let mut head = [0; 8];
        self.read_exact(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        if length > BODY_BYTES_MAX {
            return Err(self.damaged(start, format!("a frame of {length} bytes")));
        }
        if u64::from(length) > left - 8 {
            self.torn = true;
            return Ok(false);
        }
        self.body.resize(length as usize, 0);
        let mut body = std::mem::take(&mut self.body);
        let read = self.read_exact(&mut body);
        self.body = body;
        read?;
        self.offset = start + 8 + u64::from(length);
        if crc32c::crc32c(&self.body) != crc {
            return Err(self.damaged(start, "its checksum does not match".to_owned()));
        }
        Ok(true)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact(buffer).map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn damaged(&self, offset: u64, what: String) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            offset,
            what,
        }
    }
}
