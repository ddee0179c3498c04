//! Sections: named, versioned, length-checked, checksummed.

use thiserror::Error;

/// Most bytes of a state: 16 vCPUs with every register extension, and devices with all the frames that may wait for a
/// guest, fit.
pub const MAX_STATE_BYTES: usize = 24 << 20;
/// Version of the format. A state of another version is refused.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"ferryvm\n";
const HEADER_BYTES: usize = 16;
const SECTION_HEADER_BYTES: usize = 20;
/// Bytes of a section's header that its CRC covers: all before it.
const CHECKED_HEADER_BYTES: usize = 16;

/// A section's name, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(pub(super) [u8; 8]);

impl Name {
    /// The name as text.
    pub(super) fn text(self) -> String {
        self.0
            .iter()
            .take_while(|byte| **byte != 0)
            .copied()
            .flat_map(std::ascii::escape_default)
            .map(char::from)
            .collect()
    }
}

/// Bytes that are not a sequence of sound sections.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SectionError {
    /// Too long to be a state.
    #[error("a state of {bytes} bytes is longer than the limit of {MAX_STATE_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something else altogether.
    #[error("not a machine's state: it does not start with the magic bytes")]
    Magic,
    /// A state of another format.
    #[error("the state has format version {version}, and this program knows version {FORMAT_VERSION}")]
    FormatVersion {
        /// The state's version.
        version: u32,
    },
    /// Bytes missing, or too many.
    #[error("the state is {bytes} bytes long, and should be {expected}")]
    Length {
        /// Its length.
        bytes: usize,
        /// The length it states.
        expected: usize,
    },
    /// It ends within a section.
    #[error("the state ends within the section that starts at byte {at}")]
    Truncated {
        /// Where the section starts.
        at: usize,
    },
    /// A section's bytes are not those that were written.
    #[error("section {name:?} at byte {at} is damaged: its checksum does not match")]
    Damaged {
        /// The section's name, as far as it can be read.
        name: String,
        /// Where the section starts.
        at: usize,
    },
}

/// One section as it lies in the bytes.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) name: Name,
    pub(super) version: u16,
    pub(super) instance: u16,
    pub(super) payload: &'a [u8],
}

/// Writes a state.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts a state in `bytes`, whose contents are dropped and whose room is used.
    pub(super) fn new(mut bytes: Vec<u8>) -> Writer {
        bytes.clear();
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        Writer { bytes }
    }

    /// Appends a section whose payload `write` appends to the bytes it is given.
    pub(super) fn section<E>(
        &mut self,
        name: Name,
        version: u16,
        instance: u16,
        write: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.extend(name.0);
        self.bytes.extend(version.to_le_bytes());
        self.bytes.extend(instance.to_le_bytes());
        self.bytes.extend([0; 8]);
        self.bytes = write(std::mem::take(&mut self.bytes))?;
        let length = (self.bytes.len() - start - SECTION_HEADER_BYTES) as u32;
        self.bytes[start + 12..start + 16].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&self.bytes[start..]);
        self.bytes[start + 16..start + 20].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// The finished state.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let total = (self.bytes.len() as u32).to_le_bytes();
        self.bytes[12..16].copy_from_slice(&total);
        self.bytes
    }
}

/// Splits a state into its sections and checks each one's frame.
pub(super) fn sections(
    state: &[u8],
) -> Result<impl Iterator<Item = Result<Section<'_>, SectionError>>, SectionError> {
    if state.len() > MAX_STATE_BYTES {
        return Err(SectionError::TooLong { bytes: state.len() });
    }
    if !state.starts_with(&MAGIC) {
        return Err(SectionError::Magic);
    }
    let (Some(version), Some(total)) = (number(state, 8), number(state, 12)) else {
        return Err(SectionError::Length { bytes: state.len(), expected: HEADER_BYTES });
    };
    if version != FORMAT_VERSION {
        return Err(SectionError::FormatVersion { version });
    }
    if total as usize != state.len() {
        return Err(SectionError::Length { bytes: state.len(), expected: total as usize });
    }
    let mut at = HEADER_BYTES;
    Ok(std::iter::from_fn(move || {
        if at >= state.len() {
            return None;
        }
        let found = section(state, at);
        // After damage there is no telling where the next section starts.
        at = found.as_ref().map_or(state.len(), |section| at + SECTION_HEADER_BYTES + section.payload.len());
        Some(found)
    }))
}

fn section(state: &[u8], at: usize) -> Result<Section<'_>, SectionError> {
    let truncated = || SectionError::Truncated { at };
    let rest = &state[at..];
    let name: [u8; 8] = rest.first_chunk().copied().ok_or_else(truncated)?;
    let versions = number(rest, 8).ok_or_else(truncated)?;
    let length = number(rest, 12).ok_or_else(truncated)? as usize;
    let crc = number(rest, 16).ok_or_else(truncated)?;
    let whole = rest.get(..SECTION_HEADER_BYTES.saturating_add(length)).ok_or_else(truncated)?;
    let name = Name(name);
    if checksum(whole) != crc {
        return Err(SectionError::Damaged { name: name.text(), at });
    }
    let payload = &whole[SECTION_HEADER_BYTES..];
    Ok(Section { name, version: versions as u16, instance: (versions >> 16) as u16, payload })
}

/// CRC-32 of a section but for the CRC's own place.
fn checksum(section: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&section[..CHECKED_HEADER_BYTES]);
    hasher.update(&section[SECTION_HEADER_BYTES..]);
    hasher.finalize()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}
