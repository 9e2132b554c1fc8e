#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use super::*;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

type Carried = JoinHandle<io::Result<()>>;

/// Two ends with both carriers between them; what goes between the carriers breaks with `cut`.
fn tunnel(idle: Duration) -> ([DuplexStream; 2], [Carried; 2], Vec<mpsc::Sender<()>>) {
    let mut cuts = Vec::new();
    let mut wire = || {
        let (tell, mut pieces) = mpsc::channel(PIECES);
        let (forward, heard) = mpsc::channel(PIECES);
        let (cut, mut cutting) = mpsc::channel::<()>(1);
        cuts.push(cut);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    piece = pieces.recv() => piece.map(Ok),
                    Some(()) = cutting.recv() => Some(Err(Status::unavailable("cut"))),
                };
                let Some(next) = next else { return };
                let is_last = next.is_err();
                if forward.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        let heard = ReceiverStream::new(heard);
        (tell, heard)
    };
    let ((there, from_there), (back, from_back)) = (wire(), wire());
    let (near, near_far) = tokio::io::duplex(1 << 10);
    let (far, far_near) = tokio::io::duplex(1 << 10);
    let near_side = tokio::spawn(carry(near_far, from_back, there, idle));
    let far_side = tokio::spawn(carry(far_near, from_there, back, idle));
    ([near, far], [near_side, far_side], cuts)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let ([mut near, mut far], carried, _cuts) = tunnel(IDLE);
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let more = sent.clone();
    let writer = tokio::spawn(async move {
        near.write_all(&more).await.unwrap();
        near.shutdown().await.unwrap();
        // The other way is open still.
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, sent);
    far.write_all(b"an answer behind the end").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(writer.await.unwrap(), b"an answer behind the end");
    for side in carried {
        side.await.unwrap().expect("a good end");
    }
}

#[tokio::test]
async fn whoever_reads_slowly_holds_back_who_writes() {
    let ([mut near, mut far], _carried, _cuts) = tunnel(IDLE);
    let mut written = 0;
    let bytes = [7; 4_096];
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(200), near.write(&bytes)).await
    {
        written += sent.unwrap();
        assert!(written < 1 << 20, "nothing holds it back");
    }
    let mut got = vec![0; written];
    far.read_exact(&mut got).await.unwrap();
    assert!(got.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_tunnel_through_which_nothing_goes_ends() {
    let ([_near, mut far], carried, _cuts) = tunnel(Duration::from_millis(100));
    for side in carried {
        assert!(side.await.unwrap().is_err());
    }
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_breaks_in_the_middle_ends_both_ends() {
    let ([mut near, mut far], carried, cuts) = tunnel(IDLE);
    near.write_all(b"abc").await.unwrap();
    far.read_exact(&mut [0; 3]).await.unwrap();
    cuts[0].send(()).await.unwrap();
    for side in carried {
        assert!(side.await.unwrap().is_err());
    }
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_end_that_is_dropped_ends_the_other() {
    let ([near, mut far], carried, _cuts) = tunnel(IDLE);
    drop(near);
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    drop(far);
    for side in carried {
        let _ = tokio::time::timeout(Duration::from_secs(5), side)
            .await
            .expect("ended");
    }
}
