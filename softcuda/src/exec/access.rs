//! Loads and stores, with their checks.

use super::shadow::Access;
use super::warp::Warp;
use super::{Block, LOCAL_WINDOW, Lanes, PARAM_WINDOW, SHARED_WINDOW, WINDOW, lanes};
use crate::error::{Fault, FaultKind};
use crate::op::{Addr, Row, Space, Ty};

/// Sign-extends `value` of type `ty` to 64 bits, if the type is signed.
#[inline]
pub(crate) fn extend(ty: Ty, value: u64) -> u64 {
    match ty {
        Ty::S8 => value as i8 as i64 as u64,
        Ty::S16 => value as i16 as i64 as u64,
        Ty::S32 => value as i32 as i64 as u64,
        _ => value,
    }
}

/// Cuts `value` to `bytes` bytes.
#[inline]
pub(crate) fn cut(value: u64, bytes: u32) -> u64 {
    if bytes >= 8 { value } else { value & ((1 << (bytes * 8)) - 1) }
}

impl Block<'_> {
    /// The addresses of an operand.
    #[inline]
    pub fn addresses(&self, w: &Warp, addr: Addr) -> Lanes {
        let mut out = *w.row(addr.base);
        for a in &mut out {
            *a = a.wrapping_add(addr.offset as u64);
        }
        out
    }

    /// The space of a generic address, and the address in it.
    pub fn resolve(space: Space, address: u64) -> (Space, u64) {
        match space {
            Space::Generic if address < SHARED_WINDOW => (Space::Global, address),
            Space::Generic if address < LOCAL_WINDOW => (Space::Shared, address - SHARED_WINDOW),
            Space::Generic if address < PARAM_WINDOW => (Space::Local, address - LOCAL_WINDOW),
            Space::Generic if address < PARAM_WINDOW + WINDOW => (Space::Param, address - PARAM_WINDOW),
            Space::Generic | Space::Const => (Space::Global, address),
            // Generic addresses of parameters also come through `ld.param`.
            Space::Param if address >= PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
            other => (other, address),
        }
    }

    /// Splits the lanes of a generic access by space; hands each part on with addresses of that space.
    fn by_space(&self, space: Space, mask: u32, addr: &Lanes) -> Vec<(Space, u32, Lanes)> {
        let mut out: Vec<(Space, u32, Lanes)> = Vec::with_capacity(1);
        for lane in lanes(mask) {
            let (space, at) = Self::resolve(space, addr[lane]);
            match out.iter_mut().find(|(s, ..)| *s == space) {
                Some((_, m, list)) => {
                    *m |= 1 << lane;
                    list[lane] = at;
                }
                None => {
                    let mut list = [0; 32];
                    list[lane] = at;
                    out.push((space, 1 << lane, list));
                }
            }
        }
        out
    }

    /// Checks a global access of `size` bytes per lane.
    pub fn check_global(&mut self, pc: u32, mask: u32, addr: &Lanes, size: u32, what: &str) -> Result<(), Box<Fault>> {
        self.check_awaited(mask, what)?;
        let (mut low, mut high, mut odd) = (u64::MAX, 0, 0);
        for lane in lanes(mask) {
            low = low.min(addr[lane]);
            high = high.max(addr[lane]);
            odd |= addr[lane] & (u64::from(size) - 1);
        }
        if odd != 0 {
            let lane = lanes(mask).find(|l| addr[*l] & (u64::from(size) - 1) != 0).unwrap_or(0);
            let message = format!("misaligned global {what} of {size} bytes at {:#x}", addr[lane]);
            return Err(Fault::new(FaultKind::Misaligned, lane as u32, message));
        }
        let (begin, end) = self.recent[pc as usize];
        if low >= begin && high < end && high + u64::from(size) <= end {
            return Ok(());
        }
        for lane in lanes(mask) {
            let at = addr[lane];
            let i = self.ranges.partition_point(|(b, _)| *b <= at);
            let found = i.checked_sub(1).map(|i| self.ranges[i]).filter(|(_, e)| at < *e && at + u64::from(size) <= *e);
            match found {
                Some(range) => self.recent[pc as usize] = range,
                None => {
                    let near = i.checked_sub(1).map(|i| self.ranges[i]);
                    let hint = match near {
                        Some((b, e)) => {
                            format!("; the allocation below has {} bytes and begins {} bytes before", e - b, at - b)
                        }
                        None => String::new(),
                    };
                    let message =
                        format!("global {what} of {size} bytes at {at:#x} is outside of every allocation{hint}");
                    return Err(Fault::new(FaultKind::IllegalAddress, lane as u32, message));
                }
            }
        }
        Ok(())
    }

    /// Refuses what lanes do before they have waited for earlier kernels, where the kernel waits itself. That includes its end: what comes after
    /// would take earlier kernels for done.
    #[inline]
    pub fn check_awaited(&self, mask: u32, what: &str) -> Result<(), Box<Fault>> {
        let early = mask & !self.awaited;
        if early == 0 {
            return Ok(());
        }
        let message = format!("{what} before `griddepcontrol.wait`, while earlier kernels may be running");
        Err(Fault::new(FaultKind::Dependency, early.trailing_zeros(), message))
    }

    /// Refuses addresses that are nobody's. Devices pass over them, so that nothing but time is lost there: nobody would notice.
    pub fn prefetch(&self, w: &Warp, mask: u32, addr: Addr) -> Result<(), Box<Fault>> {
        let at = self.addresses(w, addr);
        let found = |at: u64| self.ranges.iter().any(|(b, e)| (*b..*e).contains(&at));
        match lanes(mask).find(|lane| !found(at[*lane])) {
            None => Ok(()),
            Some(lane) => {
                let message = format!("prefetch at {:#x}, which is outside of every allocation", at[lane]);
                Err(Fault::new(FaultKind::IllegalAddress, lane as u32, message))
            }
        }
    }

    /// Checks a shared access of one lane.
    #[inline]
    pub fn check_shared(
        &mut self,
        w: u32,
        lane: usize,
        at: u64,
        size: u32,
        access: Access,
    ) -> Result<usize, Box<Fault>> {
        if at + u64::from(size) > u64::from(self.shadow.bytes) {
            return Err(self.beyond(lane, at, size));
        }
        if at & (u64::from(size) - 1) != 0 {
            let message = format!("misaligned shared access of {size} bytes at {at}");
            return Err(Fault::new(FaultKind::Misaligned, lane as u32, message));
        }
        match self.shadow.touch(w, lane, at as u32, size, access) {
            Ok(()) => Ok(at as usize),
            Err((kind, message)) => Err(Fault::new(kind, lane as u32, message)),
        }
    }

    fn check_range(lane: usize, at: u64, size: u32, bytes: usize, what: &str) -> Result<usize, Box<Fault>> {
        if at.checked_add(u64::from(size)).is_none_or(|end| end > bytes as u64) {
            let message = format!("{what} access of {size} bytes at {at} of {bytes}");
            return Err(Fault::new(FaultKind::SharedRange, lane as u32, message));
        }
        Ok(at as usize)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn load(
        &mut self,
        w: &mut Warp,
        mask: u32,
        pc: u32,
        space: Space,
        ty: Ty,
        parts: &[(Row, u32)],
        addr: Addr,
    ) -> Result<(), Box<Fault>> {
        let addr = self.addresses(w, addr);
        let each = ty.size();
        let size = each * parts.len() as u32;
        if matches!(space, Space::Global | Space::Const) {
            return self.load_part(w, mask, pc, Space::Global, ty, parts, &addr, size);
        }
        if matches!(space, Space::Shared | Space::Local) {
            return self.load_part(w, mask, pc, space, ty, parts, &addr, size);
        }
        if space == Space::Cluster {
            return self.load_cluster(w, mask, pc, ty, parts, &addr, size);
        }
        for (space, mask, addr) in self.by_space(space, mask, &addr) {
            match space {
                // Generic addresses reach the other blocks, too.
                Space::Shared => self.load_cluster(w, mask, pc, ty, parts, &addr, size)?,
                _ => self.load_part(w, mask, pc, space, ty, parts, &addr, size)?,
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub fn load_part(
        &mut self,
        w: &mut Warp,
        mask: u32,
        pc: u32,
        space: Space,
        ty: Ty,
        parts: &[(Row, u32)],
        addr: &Lanes,
        size: u32,
    ) -> Result<(), Box<Fault>> {
        let each = ty.size();
        match space {
            Space::Global => {
                self.check_global(pc, mask, addr, size, "read")?;
                self.count_sectors(mask, addr, size);
                self.stats.global_load_bytes += u64::from(size * mask.count_ones());
                for (i, (row, width)) in parts.iter().enumerate() {
                    let row = &mut w.regs[*row as usize];
                    for lane in lanes(mask) {
                        // SAFETY: the check found the bytes in a live allocation.
                        let raw = unsafe { read((addr[lane] + i as u64 * u64::from(each)) as *const u8, each) };
                        row[lane] = cut(extend(ty, raw), *width);
                    }
                }
            }
            Space::Shared => {
                self.count_banks(mask, addr, size);
                let mut last = u64::MAX;
                for lane in lanes(mask) {
                    let at = addr[lane];
                    // Lanes often read what their neighbour reads.
                    if at != last {
                        self.check_shared(w.id, lane, at, size, Access::Read)?;
                        last = at;
                    }
                    let at = at as usize;
                    for (i, (row, width)) in parts.iter().enumerate() {
                        // SAFETY: the check found the bytes in the block's shared memory.
                        let raw = unsafe { read(self.shared.as_ptr().add(at + i * each as usize), each) };
                        w.regs[*row as usize][lane] = cut(extend(ty, raw), *width);
                    }
                }
            }
            Space::Local | Space::Param | Space::Generic | Space::Const | Space::Cluster => {
                for lane in lanes(mask) {
                    let own = self.kernel.local_bytes as usize;
                    let (bytes, what) = match space {
                        Space::Local => (&w.local[lane * own..][..own], "local"),
                        _ => (self.params, "parameter"),
                    };
                    let at = Self::check_range(lane, addr[lane], size, bytes.len(), what)?;
                    let base = bytes.as_ptr();
                    for (i, (row, width)) in parts.iter().enumerate() {
                        // SAFETY: the range was checked just now.
                        let raw = unsafe { read(base.add(at + i * each as usize), each) };
                        w.regs[*row as usize][lane] = cut(extend(ty, raw), *width);
                    }
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub fn store(
        &mut self,
        w: &mut Warp,
        mask: u32,
        pc: u32,
        space: Space,
        ty: Ty,
        parts: &[Row],
        addr: Addr,
    ) -> Result<(), Box<Fault>> {
        let addr = self.addresses(w, addr);
        let each = ty.size();
        let size = each * parts.len() as u32;
        let split = match space {
            Space::Global | Space::Shared | Space::Local => vec![(space, mask, addr)],
            _ => self.by_space(space, mask, &addr),
        };
        for (space, mask, addr) in split {
            match space {
                Space::Global => {
                    self.check_global(pc, mask, &addr, size, "write")?;
                    self.count_sectors(mask, &addr, size);
                    self.stats.global_store_bytes += u64::from(size * mask.count_ones());
                    for (i, row) in parts.iter().enumerate() {
                        let row = &w.regs[*row as usize];
                        for lane in lanes(mask) {
                            // SAFETY: the check found the bytes in a live allocation.
                            unsafe { write((addr[lane] + i as u64 * u64::from(each)) as *mut u8, each, row[lane]) };
                        }
                    }
                }
                Space::Shared => {
                    self.count_banks(mask, &addr, size);
                    for lane in lanes(mask) {
                        let at = self.check_shared(w.id, lane, addr[lane], size, Access::Write)?;
                        for (i, row) in parts.iter().enumerate() {
                            let value = w.regs[*row as usize][lane];
                            // SAFETY: the check found the bytes in the block's shared memory.
                            unsafe { write(self.shared.as_mut_ptr().add(at + i * each as usize), each, value) };
                        }
                    }
                }
                Space::Local => {
                    let own = self.kernel.local_bytes as usize;
                    for lane in lanes(mask) {
                        let at = Self::check_range(lane, addr[lane], size, own, "local")?;
                        for (i, row) in parts.iter().enumerate() {
                            let value = w.regs[*row as usize][lane];
                            let place = w.local[lane * own + at + i * each as usize..].as_mut_ptr();
                            // SAFETY: the range was checked just now.
                            unsafe { write(place, each, value) };
                        }
                    }
                }
                _ => {
                    let message = "store to a parameter";
                    return Err(Fault::new(FaultKind::IllegalAddress, mask.trailing_zeros(), message));
                }
            }
        }
        Ok(())
    }
}

/// Reads `size` bytes.
///
/// # Safety
///
/// They must be readable.
#[inline]
pub(crate) unsafe fn read(at: *const u8, size: u32) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        match size {
            1 => u64::from(*at),
            2 => u64::from(at.cast::<u16>().read_unaligned()),
            4 => u64::from(at.cast::<u32>().read_unaligned()),
            _ => at.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes `size` bytes.
///
/// # Safety
///
/// They must be writable.
#[inline]
pub(crate) unsafe fn write(at: *mut u8, size: u32, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        match size {
            1 => *at = value as u8,
            2 => at.cast::<u16>().write_unaligned(value as u16),
            4 => at.cast::<u32>().write_unaligned(value as u32),
            _ => at.cast::<u64>().write_unaligned(value),
        }
    }
}
