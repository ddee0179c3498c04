//! The services against a client of the same stack, over a wire of memory: what is answered, how many at once, and that
//! nothing anybody sends ends them.

mod client;
mod hostile;
mod many;
mod net;
mod services;
