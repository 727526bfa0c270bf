//! The one place that turns actions into requests.

use netlink::{
    Batch, Error, Socket, address, link, neighbour,
    nft::{self, TableFamily},
    route, rule,
};

use super::{Action, snat};

/// Carries out all actions, also after one that failed; returns the first error.
pub(super) fn execute(
    actions: &[Action],
    family: TableFamily,
    route_socket: &mut Socket,
    nft_socket: &mut Socket,
) -> Result<(), Error> {
    let mut batch = Batch::new();
    let mut failure = None;
    for action in actions {
        match action {
            Action::ChangeLink(change) => link::change(&mut batch, change),
            Action::AddAddress(address) => address::add(&mut batch, address),
            Action::PutRoute(route) => route::replace(&mut batch, route),
            Action::PutNeighbour(neighbour) => neighbour::replace(&mut batch, neighbour),
            Action::AddRule(rule) => rule::add(&mut batch, rule),
            Action::RemoveRule(rule) => rule::delete(&mut batch, rule),
            Action::RemoveRoute(route) => route::delete(&mut batch, route),
            Action::RemoveNeighbour(one) => neighbour::delete(&mut batch, one.link, one.address),
            Action::PutTable(table) => {
                let before = flush(&mut batch, route_socket).err();
                failure = failure.or(before).or(nft::replace(nft_socket, table).err());
            }
            Action::RemoveTable => {
                let before = flush(&mut batch, route_socket).err();
                failure = failure.or(before).or(nft::remove(nft_socket, family, snat::TABLE).err());
            }
        }
    }
    let result = flush(&mut batch, route_socket);
    failure.or(result.err()).map_or(Ok(()), Err)
}

/// Sends what is collected.
fn flush(batch: &mut Batch, socket: &mut Socket) -> Result<(), Error> {
    socket.run(std::mem::take(batch)).map(|_| ())
}
