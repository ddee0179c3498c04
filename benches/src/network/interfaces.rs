//! Interfaces in the namespace of the calling thread.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
        InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    },
};

use super::{NetworkError, netlink::Netlink};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Makes a bridge that forwards at once and learns from every frame, and sets it up.
///
/// # Errors
/// If the kernel has no bridges.
pub fn bridge(name: &str, mac: Option<[u8; 6]>) -> Result<(), NetworkError> {
    let settings = vec![
        // A port that has to listen and learn first would be dead for half a minute.
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        // Nobody reports memberships here, so nothing must be withheld for want of one.
        InfoBridge::MulticastSnooping(false),
        InfoBridge::MulticastQuerier(false),
    ];
    let mut message = named(name);
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(settings)),
    ]));
    request(RouteNetlinkMessage::NewLink(message), NEW)
        .map_err(NetworkError::interface("make the bridge", name))?;
    up(name)
}

/// Makes a cable between `name` here and `peer` in another namespace.
///
/// # Errors
/// If the kernel has no veth.
pub fn veth(name: &str, peer: &str, peer_namespace: &impl AsFd) -> Result<(), NetworkError> {
    let mut far = named(peer);
    far.attributes.push(LinkAttribute::NetNsFd(peer_namespace.as_fd().as_raw_fd()));
    let mut near = named(name);
    near.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
    ]));
    request(RouteNetlinkMessage::NewLink(near), NEW).map_err(NetworkError::interface("make the veth", name))
}

/// Makes an interface a port of a bridge, and sets it up.
///
/// # Errors
/// If there is no such interface or bridge.
pub fn enslave(name: &str, bridge: &str) -> Result<(), NetworkError> {
    set(name, |netlink, message| {
        message.attributes.push(LinkAttribute::Controller(netlink.index(bridge)?));
        Ok(())
    })
    .map_err(NetworkError::interface("enslave", name))?;
    up(name)
}

/// Sets an interface up.
///
/// # Errors
/// If there is no such interface.
pub fn up(name: &str) -> Result<(), NetworkError> {
    set(name, |_, message| {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        Ok(())
    })
    .map_err(NetworkError::interface("set up", name))
}

/// Has an interface hold so many frames that are not taken yet.
///
/// # Errors
/// If there is no such interface.
pub fn queue(name: &str, frames: u32) -> Result<(), NetworkError> {
    set(name, |_, message| {
        message.attributes.push(LinkAttribute::TxQueueLen(frames));
        Ok(())
    })
    .map_err(NetworkError::interface("set the queue of", name))
}

/// Gives an interface an address.
///
/// # Errors
/// If there is no such interface.
pub fn address(name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
    let add = || {
        let netlink = Netlink::open()?;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = netlink.index(name)?;
        let address = IpAddr::V4(address);
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        netlink.request(RouteNetlinkMessage::NewAddress(message), NEW)
    };
    add().map_err(NetworkError::interface("give an address to", name))
}

/// Whether a bridge's port forwards: its cable has both ends, and the bridge has noticed.
///
/// # Errors
/// If there is no such interface.
pub fn forwards(name: &str) -> Result<bool, NetworkError> {
    let ask = || {
        let netlink = Netlink::open()?;
        let mut message = LinkMessage::default();
        message.header.index = netlink.index(name)?;
        netlink.get(RouteNetlinkMessage::GetLink(message))
    };
    let answers = ask().map_err(NetworkError::interface("ask for the state of", name))?;
    let is_forwarding = |info: &LinkInfo| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.contains(&InfoBridgePort::State(BridgePortState::Forwarding))
        }
        _ => false,
    };
    Ok(answers.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().any(is_forwarding),
            _ => false,
        }),
        _ => false,
    }))
}

fn set(name: &str, change: impl FnOnce(&Netlink, &mut LinkMessage) -> io::Result<()>) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let mut message = LinkMessage::default();
    message.header.index = netlink.index(name)?;
    change(&netlink, &mut message)?;
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    Netlink::open()?.request(message, flags)
}
