//! Whole calls of the service: the answers that a client gets, and the abort of each upload that
//! does not end well.

use std::time::Duration;

use bytes::Bytes;
use cstore_proto::v1::upload_request::Message;
use cstore_proto::{code_of, v1};
use cstore_testkit::fake::StoreReply;
use cstore_testkit::session;
use cstore_types::{ErrorCode, Fault};
use cstore_wire::Opcode;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::cluster::Expected;
use super::sessions::{BLOCK, BODY, Worker, header};

/// Longer than everything that happens by itself.
const A_WHILE: Duration = Duration::from_secs(5);

fn finish(body: &[u8]) -> Message {
    Message::Finish(v1::UploadFinish {
        length: body.len() as u64,
        crc32c: crc32c::crc32c(body),
    })
}

fn request(message: Message) -> v1::UploadRequest {
    v1::UploadRequest {
        message: Some(message),
    }
}

/// Uploads by these messages, after which the client's stream ends.
async fn upload(worker: &Worker, messages: Vec<Message>) -> Result<v1::UploadResponse, Status> {
    let messages: Vec<v1::UploadRequest> = messages.into_iter().map(request).collect();
    Ok(worker
        .client()
        .upload(tokio_stream::iter(messages))
        .await?
        .into_inner())
}

/// Downloads a range. Returns the bytes, the length that the end says, and the error if there is
/// one.
async fn download(
    worker: &Worker,
    request: v1::DownloadRequest,
) -> (Vec<u8>, Option<u64>, Option<Status>) {
    let mut messages = match worker.client().download(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (Vec::new(), None, Some(status)),
    };
    let (mut received, mut end) = (Vec::new(), None);
    while let Some(message) = messages.next().await {
        assert_eq!(end, None, "nothing comes after the end");
        match message.map(|message| message.message) {
            Ok(Some(v1::download_response::Message::Chunk(chunk))) => {
                received.extend_from_slice(&chunk)
            }
            Ok(Some(v1::download_response::Message::End(found))) => end = Some(found.length),
            Ok(None) => panic!("an empty message"),
            Err(status) => return (received, end, Some(status)),
        }
    }
    (received, end, None)
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_committed_after_its_finish() {
    let worker = Worker::new().await;
    let chunks = [
        BODY.slice(..1),
        BODY.slice(1..1_700),
        Bytes::new(),
        BODY.slice(1_700..),
    ];
    let mut messages = vec![Message::Header(header())];
    messages.extend(chunks.map(Message::Chunk));
    messages.push(finish(&BODY));
    let response = upload(&worker, messages).await.unwrap();
    assert_eq!(response.file.map(|file| file.size), Some(BODY.len() as u64));
    assert_eq!(
        worker.master.requests::<v1::CommitUploadRequest>()[0].recipe_root,
        Expected::new(&BODY, BLOCK).root
    );
    assert!(worker.is_active());
    worker.assert_ended(1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_messages_break_a_rule_is_aborted_and_never_committed() {
    let chunk = || Message::Chunk(BODY);
    let wrong_length = Message::Finish(v1::UploadFinish {
        length: 2_499,
        crc32c: crc32c::crc32c(&BODY),
    });
    let wrong_checksum = Message::Finish(v1::UploadFinish {
        length: 2_500,
        crc32c: 1,
    });
    let too_long = Message::Chunk(vec![0; (1 << 20) + 1].into());
    for (messages, text) in [
        (vec![], "ended without Finish"),
        (vec![chunk()], "ended without Finish"),
        (
            vec![chunk(), wrong_length],
            "2500 bytes, 2499 were announced",
        ),
        (vec![chunk(), wrong_checksum], "checksum"),
        (vec![chunk(), Message::Header(header())], "one header"),
        (vec![too_long], "at most 1048576 bytes"),
    ] {
        let worker = Worker::new().await;
        let messages = [vec![Message::Header(header())], messages].concat();
        let refused = upload(&worker, messages).await.unwrap_err();
        assert_eq!(code_of(&refused), ErrorCode::InvalidArgument, "{refused}");
        assert!(refused.message().contains(text), "{text}: {refused}");
        worker.assert_ended(0, 1).await;
    }
    // Without a header there is no upload that could be aborted.
    let worker = Worker::new().await;
    let refused = upload(&worker, vec![chunk()]).await.unwrap_err();
    assert!(
        refused.message().contains("begins with its header"),
        "{refused}"
    );
    assert_eq!(worker.master.count::<v1::AbortUploadRequest>(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_for_a_minute_is_given_up() {
    let worker = Worker::new().await;
    let (sender, messages) = mpsc::channel(4);
    sender
        .send(request(Message::Header(header())))
        .await
        .unwrap();
    sender.send(request(Message::Chunk(BODY))).await.unwrap();
    let refused = worker
        .client()
        .upload(ReceiverStream::new(messages))
        .await
        .unwrap_err();
    assert_eq!(code_of(&refused), ErrorCode::Deadline);
    worker.assert_ended(0, 1).await;
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_call_is_dropped_is_aborted() {
    let worker = Worker::new().await;
    let (sender, messages) = mpsc::channel(4);
    sender
        .send(request(Message::Header(header())))
        .await
        .unwrap();
    sender.send(request(Message::Chunk(BODY))).await.unwrap();
    let mut client = worker.client();
    assert!(
        timeout(A_WHILE, client.upload(ReceiverStream::new(messages)))
            .await
            .is_err()
    );
    assert_eq!(worker.master.count::<v1::AbortUploadRequest>(), 0);
    drop(sender);
    worker.assert_ended(0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_a_node_refuses_is_aborted_and_never_committed() {
    let worker = Worker::new().await;
    let full = StoreReply::RefuseBlocks(ErrorCode::Full);
    worker.cluster.stores[1].always(Opcode::PutBlocks, full);
    // Blocks that are all different, more of them than one batch has.
    let body: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let mut messages = vec![Message::Header(header())];
    messages.extend(
        body.chunks(1 << 20)
            .map(|chunk| Message::Chunk(chunk.to_vec().into())),
    );
    messages.push(finish(&body));
    let refused = upload(&worker, messages).await.unwrap_err();
    assert_eq!(code_of(&refused), ErrorCode::Full);
    assert!(
        refused.message().contains("storage node storage-2 is full"),
        "{refused}"
    );
    worker.assert_ended(0, 1).await;
    worker.cluster.assert_nothing_sealed(session(1));
}

#[tokio::test(start_paused = true)]
async fn a_small_body_is_committed_or_aborted_in_one_call() {
    let request = |crc32c| v1::PutSmallRequest {
        header: Some(header()),
        body: BODY,
        crc32c,
    };
    let crc = crc32c::crc32c(&BODY);
    let worker = Worker::new().await;
    assert_eq!(
        worker
            .client()
            .put_small(request(crc))
            .await
            .unwrap()
            .into_inner()
            .new_blocks,
        2
    );
    assert!(worker.is_active());
    worker.assert_ended(1, 0).await;

    let worker = Worker::new().await;
    let refused = worker
        .client()
        .put_small(request(crc + 1))
        .await
        .unwrap_err();
    assert_eq!(code_of(&refused), ErrorCode::InvalidArgument);
    worker.assert_ended(0, 1).await;

    let worker = Worker::new().await;
    let full = Fault::new(ErrorCode::Full, "no room");
    worker
        .cluster
        .stores
        .iter()
        .for_each(|s| s.always(Opcode::PutSeal, StoreReply::Refuse(full.clone())));
    let refused = worker.client().put_small(request(crc)).await.unwrap_err();
    assert_eq!(code_of(&refused), ErrorCode::Full);
    worker.assert_ended(0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_download_ends_with_its_length_or_with_an_error_but_never_with_both() {
    let worker = Worker::new().await;
    let messages = vec![
        Message::Header(header()),
        Message::Chunk(BODY),
        finish(&BODY),
    ];
    upload(&worker, messages).await.unwrap();
    let root: Bytes = Expected::new(&BODY, BLOCK).root.into();
    let of = |offset, length| v1::DownloadRequest {
        recipe_root: root.clone(),
        offset,
        length,
    };
    for (offset, length, range) in [
        (0, 0, 0..2_500),
        (7, 0, 7..2_500),
        (999, 2, 999..1_001),
        (2_500, 0, 0..0),
    ] {
        let (received, end, error) = download(&worker, of(offset, length)).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(end, Some(range.len() as u64));
        assert!(received == BODY[range]);
    }
    for (offset, length) in [
        (2_501, 0),
        (2_500, 1),
        (0, 2_501),
        (u64::MAX, 2),
        (1, u64::MAX),
    ] {
        let (_, end, error) = download(&worker, of(offset, length)).await;
        assert_eq!(
            (end, error.map(|status| code_of(&status))),
            (None, Some(ErrorCode::RangeNotSatisfiable))
        );
    }
    let mut unreadable = of(0, 0);
    unreadable.recipe_root = root.slice(1..);
    let (_, _, error) = download(&worker, unreadable).await;
    assert_eq!(
        error.map(|status| code_of(&status)),
        Some(ErrorCode::InvalidArgument)
    );

    let lost = Expected::new(&BODY, BLOCK).blocks[2].0;
    assert!(
        worker
            .cluster
            .stores
            .iter()
            .any(|store| store.remove(&lost))
    );
    let (received, end, error) = download(&worker, of(0, 0)).await;
    assert_eq!((received.len(), end), (0, None));
    assert_eq!(
        error.map(|status| code_of(&status)),
        Some(ErrorCode::DataLoss)
    );
    sleep(A_WHILE).await;
    assert_eq!(worker.cluster.budget.held(), 0);
}
