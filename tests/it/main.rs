//! The one integration binary: what a user relies on, through the public door.

mod architecture;
