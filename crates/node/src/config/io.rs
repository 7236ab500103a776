//! How eagerly the roles that exchange datagrams run, and where.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeValue;

use super::problem::Collector;
use super::section::Section;
use super::{Io, Node, Role, values};

/// Processors the kernel can number.
pub(super) const MAX_CPU: u64 = 1023;

/// Reads `[io]`.
pub(super) fn io(root: &Section<'_, '_>, out: &mut Collector) -> Io {
    let mut io = Io::default();
    let Some(section) = root.section("io", out) else {
        return io;
    };
    section.only(&["busy-poll-us", "batch", "lose-one-in"], out);
    if let Some(span) = section.optional("busy-poll-us", out, values::integer(0..=1_000_000)) {
        io.busy_poll = Duration::from_micros(span);
    }
    if let Some(false) = section.optional("batch", out, values::boolean) {
        io.one_by_one = true;
        let message = "every datagram takes a system call of its own";
        let help = "this is for measuring what batches save: remove it in service";
        out.warn("io.batch", message, help);
    }
    if let Some(n) = section.optional("lose-one-in", out, values::integer(2..=1_000_000)) {
        io.lose_one_in = n as u32;
        let message = "replicas lose datagrams on purpose";
        let help = "this is for measuring what loss costs: remove it in service";
        out.warn("io.lose-one-in", message, help);
    }
    io
}

/// One processor for all roles of a node, or a table of them by role.
pub(super) fn cpus(
    section: &Section<'_, '_>,
    roles: &[Role],
    out: &mut Collector,
) -> BTreeMap<Role, usize> {
    let mut cpus = BTreeMap::new();
    let cpu = |value: &DeValue<'_>| values::integer(0..=MAX_CPU)(value).map(|n| n as usize);
    let Some(value) = section.value("cpu") else {
        return cpus;
    };
    if let DeValue::Table(_) = value.get_ref() {
        let Some(by_role) = Section::of(&section.path_of("cpu"), value, out) else {
            return cpus;
        };
        let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
        by_role.only(&words, out);
        for role in roles {
            if let Some(cpu) = by_role.optional(role.word(), out, cpu) {
                cpus.insert(*role, cpu);
            }
        }
    } else if let Some(cpu) = section.optional("cpu", out, cpu) {
        cpus.extend(roles.iter().map(|role| (*role, cpu)));
    }
    cpus
}

/// Roles that never sleep and share a processor stand in each other's way.
pub(super) fn check(io: Io, node: &Node, out: &mut Collector) {
    if io.busy_poll.is_zero() {
        return;
    }
    for (n, role) in node.roles.iter().enumerate() {
        let cpu = node.cpu.get(role);
        let earlier = node.roles[..n].iter();
        let Some(cpu) = cpu.filter(|cpu| earlier.clone().any(|r| node.cpu.get(r) == Some(cpu)))
        else {
            continue;
        };
        out.warn(
            &format!("node.{}.cpu", node.name),
            format!("several roles look for datagrams without a pause on processor {cpu}"),
            "give each role a processor of its own, e.g. `cpu = { sequencer = 1, replica = 2 }`, \
             or leave `io.busy-poll-us` out",
        );
        return;
    }
}
