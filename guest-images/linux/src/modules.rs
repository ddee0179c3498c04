//! Kernel modules, in the order in which they can be loaded.
//!
//! What a module needs is read from the module itself (`depends=` in its `.modinfo`), since a package that is only
//! unpacked has no `modules.dep`.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The modules of one kernel, by name.
pub struct Modules {
    by_name: BTreeMap<String, PathBuf>,
    built_in: HashSet<String>,
}

/// A module to load.
pub struct Module {
    /// Its name, as `lsmod` shows it.
    pub name: String,
    /// Its bytes, not compressed.
    pub bytes: Vec<u8>,
}

impl Modules {
    /// All modules below `directory`, as in `/lib/modules/6.1.0-1-amd64`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(directory: &Path) -> io::Result<Modules> {
        let mut by_name = BTreeMap::new();
        let mut directories = vec![directory.join("kernel")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                } else if let Some(name) = module_name(&entry.path()) {
                    by_name.insert(name, entry.path());
                }
            }
        }
        let built_in = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Modules { by_name, built_in })
    }

    /// The modules of these names and all they need, each after what it needs. What is built into the kernel is left
    /// out.
    ///
    /// # Errors
    /// If one is not there, or cannot be read or unpacked.
    pub fn in_load_order(&self, names: &[&str]) -> io::Result<Vec<Module>> {
        let mut loaded = Vec::new();
        for name in names {
            self.load(&name.replace('-', "_"), &mut HashSet::new(), &mut loaded)?;
        }
        Ok(loaded)
    }

    fn load(&self, name: &str, above: &mut HashSet<String>, loaded: &mut Vec<Module>) -> io::Result<()> {
        let is_there = loaded.iter().any(|module| module.name == name);
        // A kernel's modules never need each other in a circle; a file that says so must not end this program.
        if is_there || self.built_in.contains(name) || !above.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.by_name.get(name);
        let path = path.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("the kernel has no module {name}"))
        })?;
        let bytes = read_module(path)?;
        for needed in depends(&bytes) {
            self.load(&needed, above, loaded)?;
        }
        loaded.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

/// `kvm_amd` of `…/kvm-amd.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, rest) = name.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&rest).then(|| stem.replace('-', "_"))
}

/// A module's bytes, unpacked by the program for its kind of compression.
fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path),
    };
    let output = Command::new(program).arg("-dc").arg(path).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} cannot unpack {}: {}", path.display(), words.trim())))
}

/// What the module says it needs.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let names = String::from_utf8_lossy(&value[..end]).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("kernel/drivers/deep")).unwrap();
        for (name, depends) in modules {
            let bytes = format!("\x7fELF…\0license=GPL\0depends={depends}\0retpoline=Y\0");
            fs::write(directory.path().join("kernel/drivers/deep").join(name), bytes).unwrap();
        }
        fs::write(directory.path().join("modules.builtin"), "kernel/drivers/pci-stub.ko\n").unwrap();
        directory
    }

    fn order(directory: &Path, names: &[&str]) -> io::Result<Vec<String>> {
        let modules = Modules::of(directory)?.in_load_order(names)?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn each_module_comes_once_and_after_what_it_needs() {
        let kernel = kernel(&[
            ("kvm-amd.ko", "kvm,ccp"),
            ("kvm.ko", "irqbypass"),
            ("irqbypass.ko", ""),
            ("ccp.ko", ""),
        ]);
        let order = order(kernel.path(), &["kvm", "kvm-amd", "pci-stub"]).unwrap();
        assert_eq!(order, ["irqbypass", "kvm", "ccp", "kvm_amd"]);
    }

    #[test]
    fn a_circle_ends_and_a_missing_module_is_named() {
        let kernel = kernel(&[("a.ko", "b"), ("b.ko", "a"), ("c.ko", "gone")]);
        assert_eq!(order(kernel.path(), &["a"]).unwrap(), ["b", "a"]);
        assert!(order(kernel.path(), &["c"]).unwrap_err().to_string().contains("no module gone"));
    }
}
