//! A policy that is replaced while the proxy serves.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::watch;

use super::lab::{Setup, Upstream, ede, eventually, ip, policy, record, reply};
use crate::event::Verdict;
use crate::policy::{Action, Policy, Ports};

/// A server that replaces the policy when it is asked, and then answers.
async fn meddler(
    policy: Policy,
    replace_by: impl Fn() -> Policy + Send + 'static,
) -> (Upstream, watch::Receiver<Arc<Policy>>) {
    let (sender, receiver) = watch::channel(Arc::new(policy));
    let upstream = Upstream::scripted(move |query, _| {
        sender.send_replace(Arc::new(replace_by()));
        vec![
            reply(query, vec![record("x.test. 5 192.0.2.1")])
                .to_vec()
                .unwrap(),
        ]
    })
    .await;
    (upstream, receiver)
}

#[tokio::test]
async fn an_answer_is_judged_by_the_policy_that_is_in_force_when_it_comes() {
    for (before, after, code, verdict, ports) in [
        (
            policy(&[], &[]),
            policy(&["x.test"], &[]),
            ResponseCode::NXDomain,
            Verdict::Blocked,
            Ports::all(Action::Block),
        ),
        (
            policy(&["192.0.2.1"], &[]),
            policy(&[], &["x.test"]),
            ResponseCode::NoError,
            Verdict::Allowed,
            Ports::all(Action::Allow),
        ),
    ] {
        let (upstream, watched) = meddler(before, move || after.clone()).await;
        let lab = Setup::new(policy(&[], &[]), &[&upstream])
            .watching(watched)
            .start();
        let got = lab.ask("x.test.", RecordType::A).await;
        assert_eq!(got.metadata.response_code, code);
        assert_eq!(lab.queries().remove(0).verdict, verdict);
        let pin = ("x.test".to_owned(), vec![ip("192.0.2.1")], ports);
        assert_eq!(lab.pins(), [pin]);
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_server_of_the_childs_choosing_is_not_believed_once_others_are_blocked() {
    let closed = || policy(&[], &["x.test"]);
    let (chosen, watched) = meddler(policy(&[], &[]), closed).await;
    let system = Upstream::with_zone(&["x.test. 5 192.0.2.2"]).await;
    let lab = Setup::new(policy(&[], &[]), &[&system])
        .follow(chosen.address)
        .watching(watched)
        .start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    assert!(ede(&got).unwrap().1.contains("ask again"));
    assert!(lab.pins().is_empty());
    // From now on the system's own server is asked.
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.answers, [record("x.test. 5 192.0.2.2")]);
    assert_eq!((chosen.seen().len(), system.seen().len()), (1, 1));
    lab.stop().await;
}

#[tokio::test]
async fn the_names_of_new_block_rules_are_resolved_and_of_former_ones_no_more() {
    let zone = ["one.test. 1 192.0.2.1", "two.test. 1 192.0.2.2"];
    let upstream = Upstream::with_zone(&zone).await;
    let (sender, watched) = watch::channel(Arc::new(policy(&["one.test"], &[])));
    let lab = Setup::new(policy(&[], &[]), &[&upstream])
        .watching(watched)
        .start();
    eventually(|| lab.known().len() == 1).await;
    sender.send_replace(Arc::new(policy(&["two.test"], &[])));
    eventually(|| lab.known().len() == 2).await;
    let two = ("two.test".to_owned(), vec![ip("192.0.2.2")]);
    assert_eq!(lab.known().pop(), Some(two));
    lab.stop().await;
}
