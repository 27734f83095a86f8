//! Every opcode × {no handshake, wrong key, wrong cluster, other role, replayed proof, reflected
//! proof}.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::grpc::call;
use cstore_proto::v1;
use cstore_testkit::PATIENCE;
use cstore_types::{
    Block, BlockId, BlockKind, ClusterSecret, ClusterUuid, ErrorCode, Fault, FrameKey, MapVersion,
    NodeId, PartNo, SealSeq, SessionId, SessionUsage, SpaceUsage, StoreUuid,
};
use cstore_wire::frame::{HEADER, PREFIX};
use cstore_wire::handshake::{Direction, Hello, prove};
use cstore_wire::{BlockReply, Opcode, Prefix, PutStatus, Request, Response, Role, SealedBlock};
use prost::Message;

use super::Tally;
use crate::PROGRAM;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const PROOF: u8 = 4;
/// Bytes of a proof at the end of Welcome.
const PROOF_LEN: usize = 32;

/// A frame of each opcode as a member would send it. No wildcard: a new opcode needs a line here.
fn frame(opcode: Opcode) -> Bytes {
    let prefix = Prefix {
        request_id: 7,
        map_version: MapVersion(1),
        trace: None,
        knows_version_3: false,
    };
    let (session, ids, part) = (
        SessionId::from_bytes([1; 16]),
        vec![BlockId::from_bytes([2; 32])],
        PartNo(0),
    );
    let (kind, bytes) = (BlockKind::Data, Bytes::from_static(b"x"));
    let request = |request: Request| request.to_bytes(&prefix);
    let response = |response: Response| response.to_bytes(&Prefix::answer(7));
    match opcode {
        Opcode::HaveBlocks => request(Request::HaveBlocks { session, ids }),
        Opcode::PutBlocks => request(Request::PutBlocks {
            session,
            blocks: vec![Block {
                id: ids[0],
                kind,
                bytes,
            }],
        }),
        Opcode::GetBlocks => request(Request::GetBlocks { ids }),
        Opcode::Seal => request(Request::Seal { session, part, ids }),
        Opcode::Unpin => request(Request::Unpin { session }),
        Opcode::PutSeal => {
            let blocks = vec![SealedBlock {
                index: 0,
                kind,
                bytes,
            }];
            request(Request::PutSeal {
                session,
                part,
                ids,
                blocks,
            })
        }
        Opcode::UsageOf => request(Request::Usage {
            sessions: vec![SessionUsage {
                session,
                ends: true,
            }],
        }),
        Opcode::Ping => request(Request::Ping),
        Opcode::Goodbye => request(Request::Goodbye),
        // A handshake that says nothing.
        Opcode::Handshake => Bytes::from_static(&[0x03, 0, 0, 0, 0]),
        Opcode::Error => response(Response::Error(Fault::new(ErrorCode::Full, "no"))),
        Opcode::Ok => response(Response::Ok),
        Opcode::AllHere => response(Response::AllHere),
        Opcode::SomeMissing => response(Response::SomeMissing(vec![true])),
        Opcode::PutResult => response(Response::PutResult(vec![PutStatus::Stored])),
        Opcode::Block => response(Response::Block(BlockReply {
            index: 0,
            last: true,
            result: Ok(bytes),
        })),
        Opcode::Sealed => response(Response::Sealed {
            store: StoreUuid::from_bytes([3; 16]),
            seal_seq: SealSeq(1),
            nonce: 0,
            new: vec![true],
        }),
        Opcode::SealMissing => response(Response::SealMissing(vec![0])),
        Opcode::SealConflict => response(Response::SealConflict),
        Opcode::Usage => response(Response::Usage(SpaceUsage::default())),
    }
}

/// A peer that connects to a storage node.
pub(crate) struct Visitor {
    stream: TcpStream,
    hello: Vec<u8>,
    welcome: Vec<u8>,
}

impl Visitor {
    /// A worker that has proven the cluster's key.
    pub(crate) fn member(cluster: &Cluster, node: &str) -> Self {
        let mut member = Self::connect(&cluster.addr(node));
        member.greet(&hello(cluster));
        let proof = member.proof(&cluster.secret().frame_key());
        member.show(&proof);
        assert_eq!(
            member.receive().map(|(opcode, _)| opcode),
            Some(Opcode::Ok.byte()),
            "a member is let in"
        );
        member
    }

    fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            hello: Vec::new(),
            welcome: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // A peer that was refused may find the connection closed already.
        let _ = self.stream.write_all(bytes);
    }

    fn shake(&mut self, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
        self.send(&[&[0x03][..], &len, payload].concat());
    }

    /// Opcode and payload of the next frame; `None` when the connection has ended.
    pub(crate) fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; HEADER];
        if let Err(error) = self.stream.read_exact(&mut header) {
            let waited = matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            );
            assert!(!waited, "the connection stays open in silence");
            return None;
        }
        let mut payload = vec![0; u32::from_le_bytes(header[1..].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some((header[0], payload))
    }

    /// Hello and Welcome.
    fn greet(&mut self, hello: &Hello) {
        self.hello = hello.encode().to_vec();
        let payload = self.hello.clone();
        assert_eq!(payload[0], HELLO);
        self.shake(&payload);
        let (opcode, welcome) = self.receive().expect("an answer to Hello");
        assert_eq!((opcode, welcome[0]), (0x03, WELCOME));
        self.welcome = welcome;
    }

    /// Returns the right answer to Welcome for a holder of `key`.
    fn proof(&self, key: &FrameKey) -> [u8; PROOF_LEN] {
        let signed = &self.welcome[..self.welcome.len() - PROOF_LEN];
        prove(key, Direction::Client, &self.hello, signed)
    }

    fn show(&mut self, proof: &[u8]) {
        self.shake(&[&[PROOF][..], proof].concat());
    }

    /// Sends a frame and demands that nothing comes of it but a refusal and the end.
    fn demand_refusal(mut self, opcode: Opcode, case: &str) {
        self.send(&frame(opcode));
        while let Some((answer, payload)) = self.receive() {
            let refused = match answer {
                0x00 => payload[PREFIX] == ErrorCode::Unauthenticated.wire_byte(),
                0x03 => payload[0] == REFUSED,
                _ => false,
            };
            assert!(
                refused,
                "{opcode:?}, {case}: answered {answer:#04x} {payload:?}"
            );
        }
    }
}

fn cluster_uuid(cluster: &Cluster) -> ClusterUuid {
    let ask = async {
        let path = "/cstore.v1.Cluster/ListNodes";
        call(&cluster.master, path, Some(&cluster.bearer()), Bytes::new())
            .await
            .unwrap()
    };
    let answer = tokio::runtime::Runtime::new().unwrap().block_on(ask);
    let nodes = v1::ListNodesResponse::decode(answer).unwrap();
    ClusterUuid::try_from(&nodes.state.unwrap().cluster_uuid[..]).unwrap()
}

fn hello(cluster: &Cluster) -> Hello {
    Hello {
        min_version: cstore_wire::VERSION,
        max_version: cstore_wire::VERSION,
        role: Role::Worker,
        cluster: cluster_uuid(cluster),
        nonce: [4; 32],
        max_frame: 1 << 20,
        node: NodeId::new("worker-9").unwrap(),
    }
}

/// The wrong ways to come in with one opcode.
fn break_in(addr: &str, hello: &Hello, key: &FrameKey, opcode: Opcode, tally: &mut Tally) {
    let wrong_key = ClusterSecret::generate().unwrap().frame_key();
    let other_cluster = Hello {
        cluster: ClusterUuid::from_bytes([9; 16]),
        ..hello.clone()
    };
    let other_role = Hello {
        role: Role::Storage,
        ..hello.clone()
    };
    let mut try_it = |case: &str, prepare: &dyn Fn(&mut Visitor)| {
        let mut visitor = Visitor::connect(addr);
        prepare(&mut visitor);
        visitor.demand_refusal(opcode, case);
        tally.count(case);
    };
    try_it("no handshake", &|_| {});
    try_it("hello only", &|visitor| visitor.greet(hello));
    try_it("wrong key", &|visitor| {
        visitor.greet(hello);
        let proof = visitor.proof(&wrong_key);
        visitor.show(&proof);
    });
    for (case, wrong) in [
        ("wrong cluster", &other_cluster),
        ("other role", &other_role),
    ] {
        try_it(case, &|visitor| visitor.shake(&wrong.encode()));
    }
    // The proof that a member sent on its own connection.
    let mut member = Visitor::connect(addr);
    member.greet(hello);
    let captured = member.proof(key);
    member.show(&captured);
    assert_eq!(
        member.receive().map(|(opcode, _)| opcode),
        Some(Opcode::Ok.byte()),
        "a member is let in"
    );
    try_it("replayed proof", &|visitor| {
        visitor.greet(hello);
        visitor.show(&captured);
    });
    try_it("reflected proof", &|visitor| {
        visitor.greet(hello);
        let server = visitor.welcome[visitor.welcome.len() - PROOF_LEN..].to_vec();
        visitor.show(&server);
    });
    // Behind the door, requests are answered, and what is none ends the connection with its reason.
    member.send(&frame(opcode));
    match member.receive() {
        None => assert_eq!(opcode, Opcode::Goodbye),
        Some((0x00, payload)) => {
            let shut =
                [ErrorCode::Unauthenticated, ErrorCode::PermissionDenied].map(ErrorCode::wire_byte);
            assert!(
                !shut.contains(&payload[PREFIX]),
                "{opcode:?} of a member: {payload:?}"
            );
        }
        Some(_) => assert!(opcode.is_request(), "{opcode:?} is answered"),
    }
    tally.count("let in");
}

#[test]
fn i13_every_opcode_is_refused_to_whoever_has_not_proven_the_key() {
    let cluster = Cluster::builder(PROGRAM).start();
    let key = cluster.secret().frame_key();
    let hello = hello(&cluster);
    let mut tally = Tally::default();
    for opcode in Opcode::ALL {
        break_in(&cluster.addr("storage-1"), &hello, &key, opcode, &mut tally);
    }
    let kinds = [
        "no handshake",
        "hello only",
        "wrong key",
        "wrong cluster",
        "other role",
        "replayed proof",
        "reflected proof",
        "let in",
    ];
    tally.end("opcodes", Opcode::ALL.len(), &kinds);
    cluster.wait_ready();
    cluster.audit(&[]);
}
