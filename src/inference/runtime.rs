//! The ONNX Runtime library: loaded once a process, from a file whose hash was checked.
//!
//! Any call into `ort` before the library is loaded panics, so sessions can only be made from a [`Runtime`].

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::InferenceError;

/// The loaded library. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
}

// The binding allows one library and one environment a process, and refuses a second after the first has gone.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

impl Runtime {
    /// Loads the shared library at `library`, or hands out the one that is loaded already. A process that has
    /// loaded one library cannot load another. Blocks.
    pub fn load(library: &Path) -> Result<Self, InferenceError> {
        let unusable = |detail: String| InferenceError::Unusable { model: "onnxruntime".to_owned(), detail };
        let library = std::path::absolute(library).map_err(|error| unusable(error.to_string()))?;
        let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*loaded {
            Some((path, environment)) if *path == library => Ok(Self { environment: environment.clone() }),
            Some((path, _)) => {
                Err(unusable(format!("{} is loaded already, so {} cannot be", path.display(), library.display())))
            }
            None => {
                let builder = ort::init_from(&library).map_err(|error| unusable(error.to_string()))?;
                let builder = builder.with_name("plumb").with_telemetry(false);
                let environment = builder.build().map_err(|error| unusable(error.to_string()))?;
                environment.set_log_level(LogLevel::Warning);
                *loaded = Some((library, environment.clone()));
                Ok(Self { environment })
            }
        }
    }

    /// The environment that sessions are made in.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_an_error_and_no_panic() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a library").unwrap();

        assert!(matches!(Runtime::load(file.path()), Err(InferenceError::Unusable { .. })));
    }
}
