//! Latency, loss, jitter, and by which method.

use std::net::UdpSocket;
use std::thread;

use rustix::net::SocketType;

use super::*;

/// Every fourth request is lost: the first, the fifth and so on.
const FOURTH: &str = "numgen inc mod 4 0";

fn ms(figures: Figures) -> f64 {
    figures.latency.unwrap().as_secs_f64() * 1e3
}

#[test]
fn what_is_lost_is_counted_to_the_last_probe() {
    let world = World::new("loss");
    world.six();
    let four = format!("icmp type echo-request {FOURTH}");
    world.drops(&world.far, "input", &four);
    let six = format!("icmpv6 type echo-request {FOURTH}");
    run(&format!(
        "ip netns exec {} nft add rule inet input some {six} drop",
        world.far.0
    ));
    // With a raw socket first, then with a ping socket, which root may have only if it is said so.
    for (target, groups) in [
        (FAR, "1 0"),
        (FAR_SIX, "1 0"),
        (FAR, "0 0"),
        (FAR_SIX, "0 0"),
    ] {
        within(&world.node.0, || {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap();
        });
        world.at_node(async {
            let ping = probe::icmp_socket(target.parse().unwrap(), SocketType::DGRAM);
            assert_eq!(ping.is_ok(), groups == "0 0");
            let mut line = world.line(&format!(
                "interface = 'eth0'\ntargets = ['{target}']\ntimeout = '300ms'\nwindow = '1h'"
            ));
            line.rounds(40).await;
            let (method, figures) = line.figures().unwrap();
            assert_eq!(
                (method, figures.loss_percent),
                (Method::Icmp, 25.0),
                "{target}"
            );
            assert!(
                ms(figures) < 100.0 && figures.jitter.is_some(),
                "{figures:?}"
            );
            let told = line.reported().await;
            assert_eq!(told["line.wan.loss_percent"], 25.0);
            assert_eq!(told["line.wan.method"], "icmp");
            assert!(told["line.wan.latency_ms"].as_f64().unwrap() > 0.0);
            assert!(told["line.wan.jitter_ms"].is_f64());
            assert!(
                !line.reported().await.contains_key("line.wan.method"),
                "it hasn't changed"
            );
        });
    }
}

#[test]
fn a_delayed_line_is_measured_as_delayed() {
    let world = World::new("delay");
    let relay = within(&world.far.0, || UdpSocket::bind((FAR, 7000)).unwrap());
    thread::spawn(move || {
        let (mut packet, mut delays) = ([0; 100], [30, 50].into_iter().cycle());
        while let Ok((size, from)) = relay.recv_from(&mut packet) {
            thread::sleep(Duration::from_millis(delays.next().unwrap()));
            relay.send_to(&packet[..size], from).unwrap();
        }
    });
    world.at_node(async {
        let mut line = world.line(&format!(
            "targets = ['{FAR}']\nmethods = ['udp']\nudp-port = 7000"
        ));
        line.rounds(20).await;
        let (method, figures) = line.figures().unwrap();
        assert_eq!((method, figures.loss_percent), (Method::Udp, 0.0));
        // The mean of both; a machine that is busy adds to it, and nothing takes from it.
        assert!((40.0..70.0).contains(&ms(figures)), "{figures:?}");
        let jitter = figures.jitter.unwrap().as_secs_f64() * 1e3;
        assert!((10.0..40.0).contains(&jitter), "{jitter}");
    });
}

#[test]
fn who_blocks_icmp_and_udp_is_probed_by_tcp() {
    let world = World::new("block");
    world.drops(&world.far, "input", "meta l4proto { icmp, udp }");
    world.at_node(async {
        let mut line = world.line(&format!(
            "targets = ['{FAR}:81']\ntimeout = '100ms'\nwindow = '1h'"
        ));
        line.rounds(20).await;
        let told = line.reported().await;
        assert_eq!(told["line.wan.method"], "tcp");
        assert_eq!(
            told["line.wan.loss_percent"], 0.0,
            "what ICMP lost isn't the line's"
        );
        // Then it is the line that is down: no method is better, and there is no latency, not even 0.
        world.drops(&world.far, "prerouting", "meta l4proto tcp");
        line.watched[0] = Watched::new(line.settings.targets[0].clone(), &line.settings);
        line.rounds(10).await;
        let told = line.reported().await;
        assert_eq!(told["line.wan.loss_percent"], 100.0);
        assert!(
            !told.contains_key("line.wan.latency_ms") && !told.contains_key("line.wan.jitter_ms")
        );
        assert_eq!(line.deps.shown.borrow()["wan"].get("latency_ms"), None);
    });
}

#[test]
fn a_port_that_nobody_has_is_an_answer_and_what_may_not_be_sent_none() {
    let world = World::new("own");
    world.six();
    world.drops(&world.node, "output", "icmp type echo-request");
    run(&format!(
        "ip netns exec {} nft add rule inet output some icmpv6 type echo-request drop",
        world.node.0
    ));
    world.at_node(async {
        for target in [FAR, FAR_SIX] {
            // The kernel says that it may not be sent, so UDP is next, without a round lost.
            let mut line = world.line(&format!("targets = ['{target}']"));
            line.rounds(3).await;
            let (method, figures) = line.figures().unwrap();
            assert_eq!(
                (method, figures.loss_percent),
                (Method::Udp, 0.0),
                "{target}"
            );

            let mut line = world.line(&format!("targets = ['{target}']\nmethods = ['icmp']"));
            line.rounds(3).await;
            assert_eq!(line.figures(), None, "nothing was sent");
            assert_eq!(line.reported().await, Object::new());

            let mut line = world.line(&format!("targets = ['{target}']\nmethods = ['tcp']"));
            line.rounds(3).await;
            assert_eq!(line.figures().unwrap().1.loss_percent, 0.0);
        }
    });
}

#[test]
fn a_line_is_its_interface_and_its_best_target() {
    let world = World::new("bound");
    run(&format!(
        "ip -n {} link add eth1 type veth peer name eth1 netns {}",
        world.node.0, world.far.0
    ));
    for space in [&world.node, &world.far] {
        run(&format!("ip -n {} link set eth1 up", space.0));
    }
    world.at_node(async {
        let targets = format!("targets = ['10.99.0.77', '{FAR}']\ntimeout = '100ms'");
        for (interface, loss) in [("eth0", 0.0), ("eth1", 100.0), ("gone0", 100.0)] {
            for methods in ["['icmp']", "['udp']", "['tcp']"] {
                let mut line = world.line(&format!(
                    "interface = '{interface}'\nmethods = {methods}\n{targets}"
                ));
                line.rounds(3).await;
                let (_, figures) = line.figures().unwrap();
                assert_eq!(figures.loss_percent, loss, "{interface} {methods}");
                assert_eq!(figures.latency.is_some(), loss == 0.0);
            }
        }
        // Without a target, or one whose address nobody knows, nothing is known.
        for targets in ["[]", "['nobody.invalid']"] {
            let mut line = world.line(&format!("targets = {targets}"));
            line.rounds(1).await;
            assert_eq!(line.figures(), None);
        }
        let mut line = world.line("");
        line.rounds(1).await;
        assert_eq!(line.figures(), None, "no server is known");
        line.deps.broker = Some(Broker {
            host: FAR.to_owned(),
            port: 1883,
            tls: false,
        });
        line.rounds(1).await;
        assert_eq!(line.figures().unwrap().1.loss_percent, 0.0);
    });
}

#[test]
fn it_goes_by_itself_and_ends_when_it_is_told() {
    let world = World::new("run");
    world.at_node(async {
        let line = world.line(&format!("targets = ['{FAR}']\ninterval = '1s'"));
        let mut deps = line.deps.clone();
        deps.report = Duration::from_millis(100);
        let settings = Settings(vec![line.settings.clone()]);
        let mut shown = deps.shown.subscribe();
        let (trigger, shutdown) = crate::shutdown::pair();
        let running = tokio::spawn(super::super::run(settings, deps, shutdown));
        let probed = |lines: &Object| {
            lines
                .get("wan")
                .is_some_and(|wan| wan["loss_percent"] == 0.0)
        };
        let wait = shown.wait_for(probed);
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .unwrap()
            .unwrap();
        trigger.pull();
        tokio::time::timeout(Duration::from_secs(30), running)
            .await
            .unwrap()
            .unwrap();
    });
}
