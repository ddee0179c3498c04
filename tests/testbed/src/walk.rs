//! What to type on a bed for who has not seen one yet: a Linux guest moves by each strategy while a client asks it.
//!
//! `hosts up` prints it, and a test types it.

/// Where the guest's HTTP service is.
pub const GUEST_ADDRESS: &str = "10.77.0.50";

/// Commands, each with the host to type it on, in their order. The client's goes on until it is ended.
pub const WALK: [(&str, &str); 9] = [
    ("host-1", "ferry run linux net=10.77.0.50/24 --net tap=tap0 --memory 128MiB --balloon --detach"),
    ("client", "while sleep 0.5; do curl -sS http://10.77.0.50/cgi-bin/clock; done"),
    ("host-2", "ferry receive tcp://0.0.0.0:7800 --net tap=tap0 --once --detach"),
    ("host-1", "ferry migrate linux tcp://host-2:7800 --strategy pre-copy"),
    ("host-1", "ferry receive tcp://0.0.0.0:7800 --net tap=tap0 --once --detach"),
    ("host-2", "ferry migrate linux tcp://host-1:7800 --strategy post-copy"),
    ("host-2", "ferry receive tcp://0.0.0.0:7800 --net tap=tap0 --once --detach"),
    ("host-1", "ferry migrate linux tcp://host-2:7800 --strategy stop-and-copy"),
    ("host-2", "ferry ps"),
];
