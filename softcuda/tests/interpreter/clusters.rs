//! Clusters of blocks: their barrier, and reads of the shared memory of other blocks.

use crate::common::{Arg::*, download, launch, module, upload};
use softcuda::{Error, FaultKind, Memory, Module};

/// Arrival and wait.
const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";
/// Loads from the other block what this thread wrote there.
const READ: &str = "ld.shared::cluster.u32 %r6, [%r5];";

/// %r9 is this block's own place, by an address that the other block could have.
const OWN: &str = "add.u32 %r8, %r2, 1; shl.b32 %r8, %r8, 24; or.b32 %r9, %r8, %r4;";

/// A kernel for pairs of blocks. Every thread has written its number at %r4; %r5 is that place in the other block. %p1
/// is true in the block of rank 0, %p2 in that of rank 1, %p3 in the first warp of a block.
fn pair(body: &str) -> String {
    let head = "
        .version 8.0
        .target sm_90
        .address_size 64
        .visible .entry k(.param .u64 out) .explicitcluster .reqnctapercluster 2, 1, 1
        {
            .reg .pred %p<8>;
            .reg .b32 %r<16>;
            .reg .b64 %rd<8>;
            .shared .align 16 .b8 box[1024];
            ld.param.u64 %rd1, [out];
            mov.u32 %r1, %tid.x;
            mov.u32 %r2, %cluster_ctarank;
            xor.b32 %r3, %r2, 1;
            setp.lt.u32 %p0, %r3, %cluster_nctarank;
            setp.eq.u32 %p1, %r2, 0;
            setp.eq.u32 %p2, %r2, 1;
            setp.lt.u32 %p3, %r1, 32;
            shl.b32 %r7, %r1, 4;
            mov.u32 %r4, box;
            add.u32 %r4, %r4, %r7;
            st.shared.u32 [%r4], %r1;
            @%p0 mapa.shared::cluster.u32 %r5, %r4, %r3;
    ";
    format!("{head}\n{body}\nret;\n}}\n")
}

/// Runs such a kernel with two warps per block, on three clusters.
fn run(body: &str) -> Result<(), Error> {
    let memory = Memory::new();
    let at = upload(&memory, &[0u32; 64]);
    launch(&Module::parse(&pair(body)).unwrap(), &memory, "k", [6, 1, 1], [64, 1, 1], 0, &[Pointer(at)]).map(drop)
}

/// The kernel breaks a rule in the block of rank `rank`, at a line that contains `place`.
fn refused(body: &str, kind: FaultKind, rank: u32, place: &str, part: &str) {
    match run(body) {
        Err(Error::Fault { kind: found, block, text, message, .. }) => {
            let whole = format!("{body}: {block:?} `{text}`: {message}");
            assert_eq!((found, block), (kind, [rank, 0, 0]), "{whole}");
            assert!(text.contains(place) && message.contains(part), "{whole}");
        }
        Err(other) => panic!("{body}: {other}"),
        Ok(()) => panic!("{body}: passes"),
    }
}

#[test]
fn sums_over_blocks() {
    let (m, memory) = (module("clusters"), Memory::new());
    for blocks in [4, 12, 512] {
        let at = upload(&memory, &vec![u32::MAX; blocks as usize * 128]);
        let mut before = None;
        for _ in 0..3 {
            let stats = launch(&m, &memory, "sums", [blocks, 1, 1], [64, 1, 1], 0, &[Pointer(at)]).unwrap();
            assert_eq!(stats.barriers, u64::from(blocks) * 4);
            let got = download::<u32>(at, blocks as usize * 128);
            for (i, sum) in got.iter().enumerate() {
                let (block, round, thread) = (i as u32 / 128, i as u32 / 64 % 2, i as u32 % 64);
                let want: u32 = (0..4).map(|rank| (block / 4 * 4 + rank) * 64 + thread + round).sum();
                assert_eq!(*sum, want, "thread {thread} of block {block} in round {round}");
            }
            let now = Some((stats, got));
            assert!(before.is_none() || before == now);
            before = now;
        }
    }
}

#[test]
fn special_registers() {
    let (m, memory) = (module("clusters"), Memory::new());
    let at = upload(&memory, &[u32::MAX; 12 * 8]);
    launch(&m, &memory, "registers", [6, 2, 1], [1, 1, 1], 0, &[Pointer(at)]).unwrap();
    for (i, got) in download::<u32>(at, 12 * 8).chunks(8).enumerate() {
        let (x, y) = (i as u32 % 6, i as u32 / 6);
        assert_eq!(got, [x % 3, 3, x % 3, 3, x / 3, 2, y, 1], "block {x}, {y}");
    }
    // Without clusters, every block is one.
    let text = std::fs::read_to_string(format!("{}/tests/ptx/clusters.ptx", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let m = Module::parse(&text.replace(".reqnctapercluster 3", "")).unwrap();
    launch(&m, &memory, "registers", [6, 2, 1], [1, 1, 1], 0, &[Pointer(at)]).unwrap();
    for (i, got) in download::<u32>(at, 12 * 8).chunks(8).enumerate() {
        assert_eq!(got, [0, 1, 0, 1, i as u32 % 6, 6, i as u32 / 6, 0], "block {i}");
    }
}

#[test]
fn types_of_loads() {
    let (m, memory) = (module("clusters"), Memory::new());
    let at = upload(&memory, &[0u32; 32]);
    launch(&m, &memory, "types", [2, 1, 1], [1, 1, 1], 0, &[Pointer(at)]).unwrap();
    for (rank, got) in download::<u32>(at, 32).chunks(16).enumerate() {
        let word = |i: u32, rank: usize| 0x8382_8180 + i * 0x0404_0404 + rank as u32 * 0x1010_1010;
        let other = |i| word(i, 1 - rank);
        let byte = (other(0) >> 8) as u8 as i8 as i32 as u32;
        let want =
            [byte, other(0) >> 16, other(1), word(0, rank), other(0), other(1), other(2), other(3), word(1, rank)];
        assert_eq!(got[..9], want, "rank {rank}");
    }
}

#[test]
fn what_is_allowed() {
    let read_own = "mapa.shared::cluster.u32 %r8, %r4, %r2; ld.shared::cluster.u32 %r6, [%r8];";
    for body in [
        format!("{SYNC} {READ} {SYNC}"),
        // Addresses of the block's own memory, with and without rank.
        format!("{read_own} ld.shared::cluster.u32 %r6, [%r4];"),
        format!("{OWN} ld.shared::cluster.u32 %r6, [%r9];"),
        // Arriving early: the bytes were shown by the barrier before.
        format!("{SYNC} barrier.cluster.arrive; {READ} barrier.cluster.wait; {SYNC}"),
        // The owner goes on once the readers have arrived.
        format!("{SYNC} {READ} {SYNC} st.shared.u32 [%r4], %r2;"),
        // What is beside those bytes may be written meanwhile.
        format!("{SYNC} {READ} st.shared.u32 [%r4+4], %r2; {SYNC}"),
        // The barrier orders the warps of the block, too.
        format!("{SYNC} xor.b32 %r8, %r7, 512; mov.u32 %r9, box; add.u32 %r9, %r9, %r8; ld.shared.u32 %r6, [%r9];"),
        // Another warp's arrival shows what its own warp is ordered after.
        format!(
            "bar.sync 0; @%p3 bra A; barrier.cluster.arrive; bra B; A: barrier.cluster.arrive.relaxed; B: \
                 barrier.cluster.wait; {READ} {SYNC}"
        ),
        // Threads that have exited count as arrived.
        format!("@%p1 ret; {SYNC}"),
        // Half of the threads wait while others use a barrier of the block.
        format!(
            "{SYNC} @%p3 bra A; barrier.cluster.arrive; bar.sync 1, 64; barrier.cluster.wait; bra B; A: \
                 barrier.cluster.arrive; barrier.cluster.wait; bar.sync 1, 64; B: {SYNC}"
        ),
    ] {
        run(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
}

#[test]
fn reads_without_order() {
    use FaultKind::{Misaligned, PendingCopy, Race, SharedRange, Trap, Uninitialised};
    // The block of rank 0 runs first: the other's bytes are not even there.
    refused(&format!("{READ}\n {SYNC}"), Uninitialised, 0, READ, "rank 1");
    let unordered = "without an arrival at the cluster's barrier";
    refused(&format!("@%p2 {READ}\n {SYNC}"), Race, 1, READ, unordered);
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;";
    refused(&format!("{relaxed}\n {READ}\n {SYNC}"), Race, 0, READ, unordered);
    // Written since the barrier, or since the arrival.
    refused(&format!("{SYNC}\n @%p1 st.shared.u32 [%r4], %r2;\n @%p2 {READ}\n {SYNC}"), Race, 1, READ, unordered);
    let late = "barrier.cluster.arrive; st.shared.u32 [%r4], %r2; barrier.cluster.wait;";
    refused(&format!("{late}\n {READ}\n {SYNC}"), Race, 0, READ, unordered);
    // Before the wait for the arrival.
    refused(&format!("barrier.cluster.arrive;\n @%p2 {READ}\n barrier.cluster.wait; {SYNC}"), Race, 1, READ, unordered);
    refused(
        &format!("{SYNC}\n ld.shared::cluster.u32 %r6, [%r5+8];\n {SYNC}"),
        Uninitialised,
        0,
        "+8",
        "never written",
    );
    refused(&format!("{SYNC}\n ld.shared::cluster.u32 %r6, [%r5+1024];\n {SYNC}"), SharedRange, 0, "+1024", "has 1024");
    refused(&format!("{SYNC}\n ld.shared::cluster.u32 %r6, [%r5+2];\n {SYNC}"), Misaligned, 0, "+2", "misaligned");
    refused(&format!("{SYNC}\n mapa.shared::cluster.u32 %r5, %r4, 2;\n {SYNC}"), Trap, 0, "mapa", "rank 2");
    let copy = "cp.async.ca.shared.global [%r4], [%rd1], 4;\n";
    refused(&format!("{copy} {SYNC}\n {READ}\n {SYNC}"), PendingCopy, 0, READ, "pending");
    // Within the block, a relaxed arrival orders nothing either.
    let turned = "xor.b32 %r8, %r7, 512; mov.u32 %r9, box; add.u32 %r9, %r9, %r8;\n ld.shared.u32 %r6, [%r9];";
    refused(&format!("{relaxed}\n {turned}"), Race, 0, "ld.shared", "warp 0 reads what warp 1 wrote");
}

#[test]
fn blocks_without_clusters() {
    let memory = Memory::new();
    let at = upload(&memory, &[0u32; 64]);
    let alone = |body: &str| {
        let m = Module::parse(&pair(body).replace(".reqnctapercluster 2, 1, 1", "")).unwrap();
        launch(&m, &memory, "k", [3, 1, 1], [64, 1, 1], 0, &[Pointer(at)]).map(drop)
    };
    let own = "mapa.shared::cluster.u32 %r5, %r4, 0;";
    alone(&format!("{own} {SYNC} {READ} st.shared::cluster.u32 [%r5], %r1; {SYNC}")).unwrap();
    // No address has a rank here: one that looks so is out of range.
    let error = alone(&format!("or.b32 %r5, %r4, 0x1000000; {READ}")).unwrap_err();
    assert_eq!(error.fault(), Some(FaultKind::SharedRange), "{error}");
    assert_eq!(alone("mapa.shared::cluster.u32 %r5, %r4, 1;").unwrap_err().fault(), Some(FaultKind::Trap));
}

#[test]
fn blocks_that_end() {
    refused(&format!("{SYNC}\n @%p1 ret;\n {READ}\n"), FaultKind::Race, 1, READ, "has ended");
    // It hasn't ended yet, but could have.
    refused(&format!("{SYNC}\n @%p2 ret;\n {READ}\n"), FaultKind::Race, 0, READ, "may end before");
}

#[test]
fn writes_of_what_others_read() {
    let message = "write of what the block of rank 0 read";
    let init = "mbarrier.init.shared.b64 [%r4], 1;\n";
    let bulk = "setp.ne.u32 %p4, %r1, 0; @%p4 bra Z; mov.u32 %r8, box; add.u32 %r8, %r8, 8; \
                mbarrier.init.shared.b64 [%r8], 1; fence.proxy.async; \n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r4+16], [%rd1], 16, [%r8];\n Z:";
    for (write, place) in [
        ("st.shared.u32 [%r4], %r2;\n", "st.shared"),
        ("st.shared.u8 [%r4+3], %r2;\n", "st.shared"),
        ("red.shared.add.u32 [%r4], %r2;\n", "red.shared"),
        ("cp.async.ca.shared.global [%r4], [%rd1], 4;\n", "cp.async"),
        (init, "mbarrier.init"),
        (bulk, "cp.async.bulk"),
    ] {
        let body = format!("{SYNC}\n @%p1 {READ}\n @%p1 bra A;\n {write} A: {SYNC}");
        refused(&body, FaultKind::Race, 1, place, message);
        // Nor may it come between arrival and wait, or after an arrival of the reader that is relaxed.
        let body =
            format!("{SYNC}\n @%p1 {READ}\n barrier.cluster.arrive;\n @%p1 bra A;\n {write} A: barrier.cluster.wait;");
        refused(&body, FaultKind::Race, 1, place, message);
        let body = format!(
            "{SYNC}\n @%p1 {READ}\n barrier.cluster.arrive.relaxed;\n barrier.cluster.wait;\n @%p1 bra A;\n {write} A:"
        );
        refused(&body, FaultKind::Race, 1, place, message);
        // A read after the reader's arrival is of the next phase.
        let body = format!(
            "{SYNC}\n barrier.cluster.arrive;\n @%p1 {READ}\n barrier.cluster.wait;\n @%p1 bra A;\n {write} A: {SYNC}"
        );
        refused(&body, FaultKind::Race, 1, place, message);
    }
}

#[test]
fn only_loads_reach_other_blocks() {
    for access in [
        "st.shared::cluster.u32 [%r5], %r1;",
        "ld.shared.u32 %r6, [%r5];",
        "or.b32 %r9, %r4, 0x1000000; ld.shared.u32 %r6, [%r9];",
        "atom.shared::cluster.add.u32 %r6, [%r5], 1;",
        "red.shared::cluster.add.u32 [%r5], 1;",
        "mbarrier.init.shared.b64 [%r5], 1;",
        "mbarrier.arrive.shared::cluster.b64 _, [%r5];",
        "cp.async.ca.shared.global [%r5], [%rd1], 4;",
        "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r5], 16;",
        "cvt.u64.u32 %rd2, %r5; cvta.shared.u64 %rd2, %rd2; st.u32 [%rd2], %r1;",
    ] {
        refused(&format!("{SYNC}\n {access}\n {SYNC}"), FaultKind::Trap, 0, access, "of other blocks");
    }
}

#[test]
fn barriers_that_never_complete() {
    use FaultKind::{Deadlock, Trap};
    // One warp of the second block waits for the other, which waits for the cluster.
    let body = format!("@%p1 bra A;\n @!%p3 bra A;\n bar.sync 0;\n A: {SYNC}");
    refused(&body, Deadlock, 1, "bar.sync", "wait for this block at the cluster's barrier");
    // All of the block wait for more threads than there are.
    refused(&format!("@%p1 bra A;\n bar.sync 0, 96;\n A: {SYNC}"), Deadlock, 1, "bar.sync", "64 of 96");
    refused("barrier.cluster.wait;", Trap, 0, "wait", "without an arrival");
    refused("barrier.cluster.arrive; barrier.cluster.arrive;", Trap, 0, "arrive", "without a wait");
    let apart = "@%p4 bra A;\n barrier.cluster.arrive.aligned;\n bra B;\n A: barrier.cluster.arrive.aligned;\n B:";
    let odd = "and.b32 %r8, %r1, 1; setp.eq.u32 %p4, %r8, 1;\n";
    refused(&format!("{odd} {apart} barrier.cluster.wait;"), Deadlock, 0, "A:", "different instructions");
    let apart = apart.replace("arrive", "wait");
    refused(&format!("{odd} barrier.cluster.arrive;\n {apart}"), Deadlock, 0, "A:", "different instructions");
    run(&format!("{odd} barrier.cluster.arrive;\n {}", apart.replace(".aligned", ""))).unwrap();
}

#[test]
fn first_fault_of_a_grid() {
    // All clusters from the second on break the rule; the first of them is named, however many threads run.
    let body = format!(
        "mov.u32 %r8, %clusterid.x; setp.ne.u32 %p4, %r8, 0; {SYNC}\n @%p4 bra A;\n {READ}\n A: {SYNC}\n \
                        and.pred %p4, %p4, %p2;\n @%p4 st.shared.u32 [%r4+2048], %r1;"
    );
    let memory = Memory::new();
    let at = upload(&memory, &[0u32; 64]);
    let m = Module::parse(&pair(&body)).unwrap();
    for _ in 0..5 {
        let error = launch(&m, &memory, "k", [2048, 1, 1], [64, 1, 1], 0, &[Pointer(at)]).unwrap_err();
        assert!(error.to_string().contains("block [3, 0, 0]"), "{error}");
    }
}

#[test]
fn sizes() {
    let (m, memory) = (module("clusters"), Memory::new());
    let at = upload(&memory, &[0u32; 64]);
    let error = launch(&m, &memory, "sums", [6, 1, 1], [64, 1, 1], 0, &[Pointer(at)]).unwrap_err();
    assert!(matches!(error, Error::Launch { .. }) && error.to_string().contains("clusters of 4"), "{error}");
    for size in ["2, 2", "2, 1, 2", "16", "0"] {
        let text = format!(".version 8.0\n.target sm_90\n.visible .entry k() .reqnctapercluster {size} {{ ret; }}\n");
        let error = Module::parse(&text).err().unwrap_or_else(|| panic!("{size} passes")).to_string();
        assert!(error.contains("clusters of ["), "{error}");
    }
    let text = ".version 8.0\n.target sm_90\n.visible .entry k() { barrier.cluster.wait.relaxed; ret; }\n";
    assert!(Module::parse(text).err().unwrap().to_string().contains("relaxed"));
}
