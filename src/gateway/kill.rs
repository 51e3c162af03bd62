//! The kill switch: while it is on, no call to a model starts and those under way are cut.
//!
//! It is on while the settings say so, while the file [`FILE`] lies in the data directory, or after it was switched on
//! at run time, which makes that file: a restart does not turn it off.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::Timestamp;

use super::GatewayError;

/// Its name in the data directory. Its first line, if any, is the reason.
pub const FILE: &str = "KILL_SWITCH";
/// Time between two looks for the file. A quarter of the second within which it must work.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most bytes of a reason.
const REASON_MAX_BYTES: usize = 200;

/// Why and since when it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killed {
    pub reason: String,
    pub since: Timestamp,
    source: Source,
}

/// What turned it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Settings,
    /// The file, which somebody laid there or which a request made.
    File,
}

/// The switch of one process.
pub struct KillSwitch {
    state: watch::Sender<Option<Killed>>,
    file: Option<PathBuf>,
}

impl KillSwitch {
    /// A switch that looks for the file in `dir`; on from the start if the settings say so.
    pub fn new(dir: Option<&Path>, on_by_settings: OnBySettings) -> Self {
        let killed = match on_by_settings {
            OnBySettings::Yes => Some(killed(BY_SETTINGS, Source::Settings)),
            OnBySettings::No => None,
        };
        let switch = Self { state: watch::Sender::new(killed), file: dir.map(|dir| dir.join(FILE)) };
        switch.look();
        switch
    }

    /// `Some` while it is on.
    pub fn killed(&self) -> Option<Killed> {
        self.state.borrow().clone()
    }

    /// The error for calls, if it is on.
    pub fn check(&self) -> Result<(), GatewayError> {
        match &*self.state.borrow() {
            Some(killed) => Err(GatewayError::Killed { reason: killed.reason.clone() }),
            None => Ok(()),
        }
    }

    /// Returns once it is on.
    pub async fn until_on(&self) -> GatewayError {
        let mut state = self.state.subscribe();
        let reason = match state.wait_for(Option::is_some).await {
            Ok(killed) => killed.as_ref().map(|killed| killed.reason.clone()).unwrap_or_default(),
            Err(_) => "the process ends".to_owned(),
        };
        GatewayError::Killed { reason }
    }

    /// Turns it on, for this process at once and for later ones by the file.
    pub fn turn_on(&self, reason: &str) -> std::io::Result<()> {
        let reason = one_line(reason);
        // The calls first: that is what must not wait for a disk.
        self.state.send_replace(Some(killed(&reason, Source::File)));
        match &self.file {
            Some(file) => std::fs::write(file, format!("{reason}\n")),
            None => Ok(()),
        }
    }

    /// Turns it on because the settings now say so.
    pub fn turn_on_by_settings(&self) {
        if self.state.borrow().is_none() {
            self.state.send_replace(Some(killed(BY_SETTINGS, Source::Settings)));
        }
    }

    /// Turns it off and takes the file away.
    pub fn turn_off(&self) -> std::io::Result<()> {
        if let Some(file) = &self.file {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.off();
        Ok(())
    }

    fn off(&self) {
        if self.state.send_replace(None).is_some() {
            tracing::info!("the kill switch is off");
            metrics::gauge!("plumb_kill_switch").set(0.0);
        }
    }

    /// Looks for the file again and again. A file that goes away turns the switch off only if a file turned it on.
    pub async fn watch(&self) {
        let mut by_file = self.look();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let there = self.look();
            if by_file && !there && self.killed().is_some_and(|killed| killed.source == Source::File) {
                self.off();
            }
            by_file = there;
        }
    }

    /// True if the file is there; the switch is then on. A file that cannot be read counts as there.
    fn look(&self) -> bool {
        let Some(file) = &self.file else { return false };
        // What cannot be looked at may be there, and a switch must fail on the safe side.
        if file.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return false;
        }
        if self.state.borrow().is_none() {
            let first_line = std::fs::read_to_string(file).unwrap_or_default();
            let reason = one_line(first_line.lines().next().unwrap_or_default());
            self.state.send_replace(Some(killed(&reason, Source::File)));
        }
        true
    }
}

/// Whether the settings turn the switch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBySettings {
    Yes,
    No,
}

const BY_SETTINGS: &str = "switched on by the settings";

fn killed(reason: &str, source: Source) -> Killed {
    let reason = if reason.is_empty() { "no reason was given" } else { reason };
    tracing::warn!(reason, "the kill switch is on: no model is called");
    metrics::gauge!("plumb_kill_switch").set(1.0);
    Killed { reason: reason.to_owned(), since: Timestamp(jiff::Timestamp::now().as_microsecond()), source }
}

fn one_line(text: &str) -> String {
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while line.len() > REASON_MAX_BYTES {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_turns_it_on_and_its_absence_off() {
        let dir = tempfile::tempdir().unwrap();
        let switch = std::sync::Arc::new(KillSwitch::new(Some(dir.path()), OnBySettings::No));
        let watching = tokio::spawn({
            let switch = std::sync::Arc::clone(&switch);
            async move { switch.watch().await }
        });
        assert!(switch.check().is_ok());

        std::fs::write(dir.path().join(FILE), "costs run away\nmore").unwrap();
        let error = tokio::time::timeout(Duration::from_secs(1), switch.until_on()).await.unwrap();
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        tokio::time::sleep(2 * LOOK_EVERY).await;

        assert_eq!(error.to_string(), "the kill switch is on: costs run away");
        assert!(switch.check().is_ok());
        watching.abort();
    }

    #[test]
    fn what_was_turned_on_at_run_time_is_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = KillSwitch::new(Some(dir.path()), OnBySettings::No);
        first.turn_on("drill").unwrap();

        let second = KillSwitch::new(Some(dir.path()), OnBySettings::No);
        assert_eq!(second.killed().unwrap().reason, "drill");
        second.turn_off().unwrap();
        assert!(KillSwitch::new(Some(dir.path()), OnBySettings::No).check().is_ok());
    }

    #[test]
    fn the_settings_turn_it_on_without_a_file() {
        let switch = KillSwitch::new(None, OnBySettings::Yes);

        assert!(switch.check().is_err());
        switch.turn_off().unwrap();
        assert!(switch.check().is_ok());
    }
}
