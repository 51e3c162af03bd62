//! A segment as bytes: the same in memory and on disk, immutable once made.
//!
//! ```text
//! header    64 bytes: magic, format version, dimensions, rows, sequence reached; little-endian as everything here
//! ids       16 bytes a row, ascending: the ordinal of a row is its place among the ids
//! scales     4 bytes a row, f32
//! errors     4 bytes a row, f32: how far the codes are from the vector
//! codes      dimensions padded to 64, int8
//! vectors    2 bytes a dimension, f16
//! ```
//!
//! Sections start at multiples of 64. A file's checksum is the manifest's business and is verified before
//! [`Image::map`]; from then on ids, scales and codes are read through the map, and the f16 rows of large segments by
//! `pread`, so that rescoring leaves nothing resident.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use half::f16;
use memmap2::Mmap;

use crate::domain::{ChunkId, Sequence};
use crate::index::IndexError;
use crate::index::manifest::{corrupt, io_error};

use super::kernel::LANE;
use super::quantize::{self, DIMENSIONS_MAX, Quantized};

const MAGIC: &[u8; 8] = b"PLUMBVEC";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 64;
const ID_BYTES: usize = 16;
/// f16 sections up to this size are read through the map: a file handle for each small segment would be dearer.
const MAPPED_VECTORS_MAX_BYTES: usize = 1 << 22;
/// Interpolations before a search by id falls back to doubling steps.
const INTERPOLATIONS: usize = 3;

/// Where the sections of an image lie, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub dimensions: usize,
    pub rows: usize,
    ids: usize,
    scales: usize,
    errors: usize,
    codes: usize,
    vectors: usize,
    pub bytes: usize,
}

impl Layout {
    /// `None` where the numbers make no sense or the image would not fit into memory.
    pub(super) fn new(dimensions: usize, rows: usize) -> Option<Self> {
        if dimensions == 0 || dimensions > DIMENSIONS_MAX || u32::try_from(rows).is_err() {
            return None;
        }
        let after = |start: usize, row_bytes: usize| rows.checked_mul(row_bytes)?.checked_add(start);
        let aligned = |end: Option<usize>| end?.checked_next_multiple_of(LANE);
        let ids = HEADER_BYTES;
        let scales = aligned(after(ids, ID_BYTES))?;
        let errors = aligned(after(scales, 4))?;
        let codes = aligned(after(errors, 4))?;
        let vectors = aligned(after(codes, quantize::stride(dimensions)))?;
        let bytes = after(vectors, 2 * dimensions)?;
        Some(Self { dimensions, rows, ids, scales, errors, codes, vectors, bytes })
    }

    /// The length in bytes of a row of codes.
    pub(super) fn stride(&self) -> usize {
        quantize::stride(self.dimensions)
    }
}

enum Bytes {
    Memory(Vec<u8>),
    Mapped { map: Mmap, file: Option<File>, path: String },
}

/// Rows of vectors with their codes, ascending by id.
pub(super) struct Image {
    bytes: Bytes,
    layout: Layout,
}

/// A row of some image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowRef {
    /// Index of the image in the list of sources.
    pub source: u32,
    pub ordinal: u32,
}

impl Image {
    /// An image in memory; `rows` ascend by id and name each id once.
    pub(super) fn from_vectors(
        dimensions: usize,
        reached: Sequence,
        rows: &[(ChunkId, Vec<f16>)],
    ) -> Result<Self, IndexError> {
        let layout = Layout::new(dimensions, rows.len()).ok_or_else(|| too_large(dimensions, rows.len()))?;
        let mut bytes = vec![0; layout.bytes];
        write_header(&layout, reached, &mut bytes);
        for (ordinal, (id, vector)) in rows.iter().enumerate() {
            let code = layout.codes + ordinal * layout.stride();
            let (row, quantized) = quantize::encode(vector, &mut bytes[code..code + dimensions])?;
            put(&mut bytes, layout.ids + ordinal * ID_BYTES, &id.0);
            put(&mut bytes, layout.scales + ordinal * 4, &quantized.scale.to_le_bytes());
            put(&mut bytes, layout.errors + ordinal * 4, &quantized.error.to_le_bytes());
            put(&mut bytes, layout.vectors + ordinal * 2 * dimensions, &row);
        }
        Ok(Self { bytes: Bytes::Memory(bytes), layout })
    }

    /// An image in memory of `rows` of `sources`, as [`write_rows`] would write it.
    pub(super) fn from_rows(sources: &[&Self], rows: &[RowRef], reached: Sequence) -> Result<Self, IndexError> {
        let layout = merged_layout(sources, rows)?;
        let mut bytes = Vec::with_capacity(layout.bytes);
        write_rows(&mut bytes, sources, rows, reached)
            .map_err(|error| IndexError::Engine { detail: error.to_string() })?;
        Ok(Self { bytes: Bytes::Memory(bytes), layout })
    }

    /// Maps a file whose checksum has been verified.
    pub(super) fn map(path: &Path) -> Result<Self, IndexError> {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        // SAFETY: sealed files are never written again, and the data directory is locked against other processes.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| io_error(path, source))?;
        let layout = read_header(&map).ok_or_else(|| corrupt(path, "is not a vector segment".to_owned()))?;
        if layout.bytes != map.len() {
            return Err(corrupt(path, format!("has {} bytes, its header says {}", map.len(), layout.bytes)));
        }
        let large = layout.bytes - layout.vectors > MAPPED_VECTORS_MAX_BYTES;
        let bytes = Bytes::Mapped { map, file: large.then_some(file), path: path.display().to_string() };
        Ok(Self { bytes, layout })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn rows(&self) -> u32 {
        u32::try_from(self.layout.rows).expect("the layout has at most u32::MAX rows")
    }

    /// The id of a row.
    pub(super) fn id(&self, ordinal: u32) -> ChunkId {
        ChunkId(array(self.bytes(), self.layout.ids + ordinal as usize * ID_BYTES))
    }

    /// Scale and error of a row's codes.
    pub(super) fn quantized(&self, ordinal: u32) -> Quantized {
        let at = |section: usize| f32::from_le_bytes(array(self.bytes(), section + ordinal as usize * 4));
        Quantized { scale: at(self.layout.scales), error: at(self.layout.errors) }
    }

    /// Scale and error of the rows from `first` up to but without `end`.
    pub(super) fn quantized_rows(&self, first: u32, end: u32) -> impl Iterator<Item = Quantized> {
        let floats = |section: usize| {
            let bytes = &self.bytes()[section + first as usize * 4..section + end as usize * 4];
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let pairs = floats(self.layout.scales).zip(floats(self.layout.errors));
        pairs.map(|(scale, error)| Quantized { scale, error })
    }

    /// The codes of the rows from `first` up to but without `end`.
    pub(super) fn codes(&self, first: u32, end: u32) -> &[u8] {
        let start = |ordinal: u32| self.layout.codes + ordinal as usize * self.layout.stride();
        &self.bytes()[start(first)..start(end)]
    }

    /// The f16 bytes of a row; `buffer` is used where they must be read from the file.
    pub(super) fn vector<'a>(&'a self, ordinal: u32, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], IndexError> {
        let length = 2 * self.layout.dimensions;
        let start = self.layout.vectors + ordinal as usize * length;
        if let Bytes::Mapped { file: Some(file), path, .. } = &self.bytes {
            buffer.resize(length, 0);
            file.read_exact_at(buffer, start as u64).map_err(|source| IndexError::Io { path: path.clone(), source })?;
            return Ok(buffer);
        }
        Ok(&self.bytes()[start..start + length])
    }

    /// The ordinal of `id`, if it is here.
    ///
    /// Ids are hashes, so interpolation lands near; any other distribution costs a logarithm of steps more.
    pub(super) fn find(&self, id: &ChunkId) -> Option<u32> {
        let rows = self.layout.rows;
        if rows == 0 {
            return None;
        }
        let mut guess = interpolate(0, head(id), 0, rows);
        for _ in 0..INTERPOLATIONS {
            let found = self.id(guess as u32);
            if found == *id {
                return Some(guess as u32);
            }
            guess = interpolate(head(&found), head(id), guess, rows);
        }
        let (mut low, mut high) = self.bracket(id, guess);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.id(middle as u32) < *id { low = middle + 1 } else { high = middle }
        }
        (low < rows && self.id(low as u32) == *id).then_some(low as u32)
    }

    /// Ordinals between which the first row not below `id` lies, found in doubling steps from `guess`.
    fn bracket(&self, id: &ChunkId, guess: usize) -> (usize, usize) {
        let rows = self.layout.rows;
        let mut step = 1;
        if self.id(guess as u32) < *id {
            let mut low = guess + 1;
            while low + step < rows && self.id((low + step) as u32) < *id {
                low += step + 1;
                step *= 2;
            }
            (low.min(rows), (low + step + 1).min(rows))
        } else {
            let mut high = guess;
            while high > step && self.id((high - step) as u32) >= *id {
                high -= step;
                step *= 2;
            }
            (high.saturating_sub(step), high)
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Memory(bytes) => bytes,
            Bytes::Mapped { map, .. } => map,
        }
    }
}

/// Writes the image of `rows` of `sources`; they ascend by id and name each id once.
pub(super) fn write_rows(
    out: &mut impl Write,
    sources: &[&Image],
    rows: &[RowRef],
    reached: Sequence,
) -> io::Result<()> {
    let layout = merged_layout(sources, rows).map_err(io::Error::other)?;
    let from = |row: &RowRef| sources[row.source as usize];
    let mut header = vec![0; HEADER_BYTES];
    write_header(&layout, reached, &mut header);
    out.write_all(&header)?;
    rows.iter().try_for_each(|row| out.write_all(&from(row).id(row.ordinal).0))?;
    pad(out, layout.scales - (layout.ids + ID_BYTES * rows.len()))?;
    rows.iter().try_for_each(|row| out.write_all(&from(row).quantized(row.ordinal).scale.to_le_bytes()))?;
    pad(out, layout.errors - (layout.scales + 4 * rows.len()))?;
    rows.iter().try_for_each(|row| out.write_all(&from(row).quantized(row.ordinal).error.to_le_bytes()))?;
    pad(out, layout.codes - (layout.errors + 4 * rows.len()))?;
    rows.iter().try_for_each(|row| out.write_all(from(row).codes(row.ordinal, row.ordinal + 1)))?;
    pad(out, layout.vectors - (layout.codes + layout.stride() * rows.len()))?;
    let mut buffer = Vec::new();
    rows.iter().try_for_each(|row| {
        let vector = from(row).vector(row.ordinal, &mut buffer).map_err(io::Error::other)?;
        out.write_all(vector)
    })
}

fn merged_layout(sources: &[&Image], rows: &[RowRef]) -> Result<Layout, IndexError> {
    let dimensions = sources.first().map_or(0, |image| image.layout.dimensions);
    debug_assert!(sources.iter().all(|image| image.layout.dimensions == dimensions));
    Layout::new(dimensions, rows.len()).ok_or_else(|| too_large(dimensions, rows.len()))
}

fn too_large(dimensions: usize, rows: usize) -> IndexError {
    IndexError::Engine { detail: format!("a segment cannot hold {rows} rows of {dimensions} dimensions") }
}

fn write_header(layout: &Layout, reached: Sequence, bytes: &mut [u8]) {
    put(bytes, 0, MAGIC);
    put(bytes, 8, &FORMAT.to_le_bytes());
    put(bytes, 12, &(layout.dimensions as u32).to_le_bytes());
    put(bytes, 16, &(layout.rows as u64).to_le_bytes());
    put(bytes, 24, &reached.0.to_le_bytes());
}

fn read_header(bytes: &[u8]) -> Option<Layout> {
    let header = bytes.get(..HEADER_BYTES)?;
    if &header[..8] != MAGIC || u32::from_le_bytes(array(header, 8)) != FORMAT {
        return None;
    }
    let rows = usize::try_from(u64::from_le_bytes(array(header, 16))).ok()?;
    Layout::new(u32::from_le_bytes(array(header, 12)) as usize, rows)
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn pad(out: &mut impl Write, count: usize) -> io::Result<()> {
    out.write_all(&[0; LANE][..count])
}

/// The first half of an id as a number: enough to interpolate.
fn head(id: &ChunkId) -> u64 {
    u64::from_be_bytes(array(&id.0, 0))
}

/// Where `to` should be if `from` is at `at` and `rows` are spread evenly over all numbers.
fn interpolate(from: u64, to: u64, at: usize, rows: usize) -> usize {
    let ahead = i128::from(to) - i128::from(from);
    let guess = at as i128 + ((ahead * rows as i128) >> 64);
    guess.clamp(0, rows as i128 - 1) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(ids: &[u128]) -> Vec<(ChunkId, Vec<f16>)> {
        let vector = |n: usize| [1.0, n as f32, -2.0].map(f16::from_f32).to_vec();
        ids.iter().enumerate().map(|(n, id)| (ChunkId(id.to_be_bytes()), vector(n))).collect()
    }

    fn image(ids: &[u128]) -> Image {
        Image::from_vectors(3, Sequence(7), &rows(ids)).unwrap()
    }

    proptest! {
        #[test]
        fn every_id_is_found_and_no_other(
            even in proptest::collection::btree_set(any::<u128>(), 0..300),
            near in proptest::collection::btree_set(0_u128..500, 0..300),
            asked in any::<u128>(),
        ) {
            for ids in [Vec::from_iter(even), Vec::from_iter(near)] {
                let image = image(&ids);
                for (ordinal, id) in ids.iter().enumerate() {
                    prop_assert_eq!(image.find(&ChunkId(id.to_be_bytes())), Some(ordinal as u32));
                }
                for asked in [asked, asked % 600] {
                    let expected = ids.binary_search(&asked).ok().map(|ordinal| ordinal as u32);
                    prop_assert_eq!(image.find(&ChunkId(asked.to_be_bytes())), expected);
                }
            }
        }
    }

    #[test]
    fn a_written_image_is_mapped_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let (a, b) = (image(&[1, 5, 9]), image(&[2, 5]));
        let order = [(0, 0), (1, 0), (0, 2)].map(|(source, ordinal)| RowRef { source, ordinal });
        let mut bytes = Vec::new();
        write_rows(&mut bytes, &[&a, &b], &order, Sequence(9)).unwrap();
        std::fs::write(&path, &bytes).unwrap();

        let (mapped, memory) = (Image::map(&path).unwrap(), Image::from_rows(&[&a, &b], &order, Sequence(9)).unwrap());

        for image in [mapped, memory] {
            assert_eq!(image.bytes(), bytes);
            assert_eq!(
                (0..3).map(|n| image.id(n)).collect::<Vec<_>>(),
                [1_u128, 2, 9].map(|n| ChunkId(n.to_be_bytes()))
            );
            let mut buffer = Vec::new();
            for (ordinal, row) in (0..).zip(order) {
                let source = [&a, &b][row.source as usize];
                assert_eq!(image.quantized(ordinal), source.quantized(row.ordinal));
                assert_eq!(image.codes(ordinal, ordinal + 1), source.codes(row.ordinal, row.ordinal + 1));
                let mut other = Vec::new();
                assert_eq!(
                    image.vector(ordinal, &mut buffer).unwrap(),
                    source.vector(row.ordinal, &mut other).unwrap()
                );
            }
        }
    }

    #[test]
    fn a_file_that_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let whole = image(&[1, 2]).bytes().to_vec();
        let mut wrong_rows = whole.clone();
        wrong_rows[16..24].fill(0xff);
        let mut newer = whole.clone();
        newer[8] = 2;
        for bytes in [&whole[..whole.len() - 1], &whole[..10], &wrong_rows, &newer, b"".as_slice()] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Image::map(&path).is_err());
        }
    }

    #[test]
    fn sections_do_not_overlap_and_are_aligned() {
        for (dimensions, rows) in [(1, 0), (1, 1), (3, 5), (384, 1_000), (1_000, 17)] {
            let layout = Layout::new(dimensions, rows).unwrap();
            for (start, end) in [
                (layout.ids + rows * ID_BYTES, layout.scales),
                (layout.scales + rows * 4, layout.errors),
                (layout.errors + rows * 4, layout.codes),
                (layout.codes + rows * layout.stride(), layout.vectors),
            ] {
                assert!(start <= end && end % 64 == 0);
            }
        }
        assert!(Layout::new(0, 1).is_none());
        assert!(Layout::new(DIMENSIONS_MAX + 1, 1).is_none());
        assert!(Layout::new(1, usize::MAX).is_none());
    }
}
