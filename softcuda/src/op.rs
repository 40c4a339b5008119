//! Decoded instructions. Every operand is a row of the warp's register file: immediates, special registers and
//! addresses of symbols have rows of their own, so that the executor never asks what kind of operand it has.

pub(crate) use crate::compound::*;
pub(crate) use crate::kinds::*;

/// Index of a row of the register file (one value per lane).
pub(crate) type Row = u32;
/// The row that is always zero.
pub(crate) const ZERO: Row = 0;
/// The row that results nobody wants go to.
pub(crate) const SINK: Row = 1;
/// No predicate.
pub(crate) const NONE: Row = u32::MAX;

/// An address: a row and a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addr {
    pub base: Row,
    pub offset: i64,
}

/// What one instruction does.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) enum Op {
    Nop,
    /// `prefetch.global`: brings a line to a cache. Nothing comes of it, but its address has to be one.
    Prefetch {
        addr: Addr,
    },
    /// `griddepcontrol.wait`: what earlier kernels wrote is seen from here on.
    Await,
    Mov {
        d: Row,
        a: Row,
    },
    Clock {
        d: Row,
    },
    Pack {
        d: Row,
        parts: Box<[Row]>,
        bits: u32,
    },
    Unpack {
        parts: Box<[Row]>,
        a: Row,
        bits: u32,
    },
    Un {
        op: Un,
        ty: Ty,
        mode: Mode,
        d: Row,
        a: Row,
    },
    Bin {
        op: Bin,
        ty: Ty,
        mode: Mode,
        d: Row,
        a: Row,
        b: Row,
    },
    Tri {
        op: Tri,
        ty: Ty,
        mode: Mode,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    /// Additions with carry: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, ...
    Carry {
        sub: bool,
        ty: Ty,
        d: Row,
        a: Row,
        b: Row,
        carry_in: bool,
        flag: Row,
    },
    Bfi {
        ty: Ty,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
        e: Row,
    },
    Cvt {
        to: Ty,
        from: Ty,
        mode: Mode,
        d: Row,
        a: Row,
        b: Row,
        width: u32,
    },
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        combine: Option<(Bool, Row, bool)>,
        p: Row,
        q: Row,
        a: Row,
        b: Row,
    },
    Set {
        cmp: Cmp,
        ty: Ty,
        to: Ty,
        combine: Option<(Bool, Row, bool)>,
        d: Row,
        a: Row,
        b: Row,
    },
    Selp {
        d: Row,
        a: Row,
        b: Row,
        p: Row,
        neg: bool,
    },
    Slct {
        ty: Ty,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Testp {
        ty: Ty,
        what: u8,
        d: Row,
        a: Row,
    },
    Cvta {
        d: Row,
        a: Row,
        space: Space,
        to: bool,
        width: u32,
    },
    Isspacep {
        d: Row,
        a: Row,
        space: Space,
    },
    Ld {
        space: Space,
        ty: Ty,
        parts: Box<[(Row, u32)]>,
        addr: Addr,
    },
    St {
        space: Space,
        ty: Ty,
        parts: Box<[Row]>,
        addr: Addr,
    },
    Atom {
        space: Space,
        op: Atomic,
        ty: Ty,
        d: Box<[Row]>,
        addr: Addr,
        b: Box<[Row]>,
        c: Row,
    },
    Bra {
        target: u32,
    },
    Brx {
        index: Row,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Bar {
        id: Row,
        count: Row,
        aligned: bool,
        arrive: bool,
        reduce: Option<(Vote, Row, bool, Row)>,
    },
    /// `barrier.cluster.arrive`; without `release` it orders nothing.
    ClusterArrive {
        release: bool,
        aligned: bool,
    },
    ClusterWait {
        aligned: bool,
    },
    /// The address of the same place in another block of the cluster.
    Mapa {
        space: Space,
        d: Row,
        a: Row,
        rank: Row,
    },
    WarpBar {
        mask: Row,
    },
    Vote {
        mode: Vote,
        d: Row,
        a: Row,
        neg: bool,
        mask: Row,
    },
    Shfl {
        mode: Shfl,
        d: Row,
        p: Row,
        a: Row,
        b: Row,
        c: Row,
        mask: Row,
    },
    Redux {
        op: Atomic,
        ty: Ty,
        d: Row,
        a: Row,
        mask: Row,
    },
    Match {
        all: bool,
        ty: Ty,
        d: Row,
        p: Row,
        a: Row,
        mask: Row,
    },
    ActiveMask {
        d: Row,
    },
    Elect {
        d: Row,
        p: Row,
        mask: Row,
    },
    Ldmatrix {
        trans: bool,
        d: Box<[Row]>,
        addr: Addr,
        space: Space,
    },
    Stmatrix {
        trans: bool,
        a: Box<[Row]>,
        addr: Addr,
        space: Space,
    },
    Mma(Box<Mma>),
    WmmaLoad {
        row: bool,
        ty: Ty,
        space: Space,
        d: Box<[Row]>,
        addr: Addr,
        stride: Row,
    },
    WmmaStore {
        row: bool,
        ty: Ty,
        space: Space,
        a: Box<[Row]>,
        addr: Addr,
        stride: Row,
    },
    CpAsync {
        dst: Addr,
        src: Addr,
        size: u32,
        src_size: Row,
        ignore: Row,
        ignore_neg: bool,
    },
    CpCommit,
    CpWait {
        keep: u32,
    },
    CpWaitAll,
    /// `fence.proxy.async`: what the thread wrote before is seen by asynchronous readers.
    ProxyFence,
    MbInit {
        at: Place,
        count: Row,
    },
    MbInval {
        at: Place,
    },
    MbExpect {
        at: Place,
        bytes: Row,
    },
    MbArrive {
        d: Row,
        at: Place,
        count: Row,
        bytes: Row,
        drop: bool,
    },
    MbWait {
        p: Row,
        at: Place,
        state: Row,
        parity: bool,
    },
    MbPending {
        d: Row,
        state: Row,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        keep: u32,
    },
    GroupFence,
    GroupCommit,
    GroupWait {
        keep: u32,
    },
    GroupMma(Box<GroupMma>),
}

/// One decoded instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub op: Op,
    /// Row of the predicate, or [`NONE`].
    pub pred: Row,
    /// The predicate is negated.
    pub neg: bool,
    pub class: Class,
    /// One-based line of the PTX text.
    pub line: u32,
    /// Line of the CUDA source.
    pub source: u32,
    /// It touches registers of asynchronous products.
    pub watched: bool,
}

/// One kernel, decoded.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    pub rows: u32,
    pub consts: Vec<(Row, u64)>,
    pub specials: Vec<(Row, Special)>,
    /// Offset and size of every parameter.
    pub params: Vec<(u32, u32)>,
    pub param_bytes: u32,
    /// Bytes of statically sized shared memory; the dynamic part starts at `dynamic_base`.
    pub static_shared: u32,
    pub dynamic_base: u32,
    pub local_bytes: u32,
    pub max_threads: Option<[u32; 3]>,
    /// `maxntid` is exact (`.reqntid`).
    pub exact_threads: bool,
    /// Blocks of a cluster, side by side along the first axis; one where the kernel names none.
    pub cluster: u32,
    /// Clusters can't see each other's work: no atomics on global memory, no clocks.
    pub independent: bool,
    /// It has bulk copies or barriers in shared memory.
    pub bulk: bool,
    /// It waits for earlier kernels itself (`griddepcontrol.wait`), so that it may begin while they run.
    pub awaits: bool,
    /// Registers that asynchronous products read and write.
    pub product_registers: Vec<Row>,
}
