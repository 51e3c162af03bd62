//! What is asked of generations from outside: how they are, and what shall become of them.

mod desk;
mod error;
mod view;

pub use desk::{Force, GenerationDesk, GenerationDeskParts, Places, PlanPatch, Transition, check_plan};
pub use error::DeskError;
pub use view::{GenerationView, target};
