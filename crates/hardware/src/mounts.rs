//! What is mounted where: `/proc/self/mountinfo`.

use crate::Root;

/// Mounts that are read.
const MOUNTS_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// `259:1` of the device.
    pub(crate) device: String,
    /// What of the file system is mounted.
    pub(crate) root: String,
    pub(crate) point: String,
    pub(crate) kind: String,
    pub(crate) source: String,
    /// Of the file system: for version 1 control groups, the controllers.
    pub(crate) options: String,
}

pub(crate) fn mounts(root: &Root) -> Vec<Mount> {
    let text = root.text("/proc/self/mountinfo").unwrap_or_default();
    let mounts = text.lines().take(MOUNTS_MAX).filter_map(|line| {
        let (before, behind) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let (device, root) = (fields.next()?, fields.next()?);
        let point = fields.next()?;
        let mut fields = behind.split(' ');
        Some(Mount {
            device: device.to_owned(),
            root: plain(root),
            point: plain(point),
            kind: fields.next()?.to_owned(),
            source: plain(fields.next()?),
            options: fields.next().unwrap_or_default().to_owned(),
        })
    });
    mounts.collect()
}

/// The kernel writes blanks and their like as `\040`.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    #[test]
    fn blanks_in_names_are_read() {
        let line = "40 1 0:35 / /mnt/my\\040disk rw,relatime shared:1 - nfs4 box:/a\\134b rw\n";
        let files = Recording::of(&[("/proc/self/mountinfo", line)]);
        let mounts = mounts(&Root::recorded(files));
        assert_eq!(mounts[0].point, "/mnt/my disk");
        assert_eq!(mounts[0].source, "box:/a\\b");
        assert_eq!(plain("\\9"), "\\9");
        assert_eq!(plain("\\777"), "\\777");
    }
}
