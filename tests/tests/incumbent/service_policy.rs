//! Policies for pods that are reached by Services: what the pod sees come is judged, after whatever kube-proxy did.

use anyhow::{Context, Result, ensure};
use system_tests::kube_proxy::Transport;
use system_tests::world::{INTERNET, PORT};

use super::cluster::{NODES, netns_of_node};
use super::services::{Beside, PORT_OF_SERVICE, SINGLE_CLUSTER, SINGLE_LOCAL, SINGLES, cluster_ip};
use super::talk::{BRIEFLY, PATIENCE, Question, all_must_fail};

impl Beside {
    /// One pod hears the internet's host only, another one speaks to the pods behind one Service only; and then all
    /// is as before.
    pub(crate) fn policies(&self) -> Result<()> {
        let [speaker, guarded, server] = self.singles();
        let policy = |name: &str, pod: &str, rules: &str| {
            format!(
                "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  podSelector: {{matchLabels: {{pod: {pod}}}}}
{rules}"
            )
        };
        let hears = policy(
            "hears",
            &guarded.name,
            &format!(
                "  policyTypes: [Ingress]\n  ingress: [{{from: [{{ipBlock: {{cidr: {}/32}}}}], ports: [{{port: {PORT}}}]}}]\n",
                INTERNET.0
            ),
        );
        let speaks = policy(
            "speaks",
            &speaker.name,
            &format!(
                "  policyTypes: [Egress]\n  egress: [{{to: [{{podSelector: {{matchLabels: {{pod: {}}}}}}}], ports: [{{port: {PORT}}}]}}]\n",
                server.name
            ),
        );
        let service = |name: &str, pod: &str, address| {
            format!(
                "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {address}
  selector: {{pod: {pod}}}
  ports: [{{port: {PORT_OF_SERVICE}, targetPort: {PORT}}}]
"
            )
        };
        let services = [
            service("closed", &guarded.name, cluster_ip(SINGLES + 1)),
            service("open", &server.name, cluster_ip(SINGLES + 2)),
        ]
        .concat();
        let objects = [services, hears, speaks].concat();
        self.world.apply(&objects)?;
        self.judged().with_context(|| self.world.complaints())?;
        self.world.delete(&objects)?;
        let question = Question::new(&speaker.netns, Transport::Tcp, guarded.address, PORT);
        self.world.wait("the policies are gone", || question.ask(BRIEFLY).ok()).map(drop)
    }

    fn judged(&self) -> Result<()> {
        let [speaker, guarded, server] = self.singles();
        let ask = |client: &std::path::Path, to, port| Question::new(client, Transport::Tcp, to, port);
        let (by_service, direct) = (
            ask(&speaker.netns, cluster_ip(SINGLES + 2), PORT_OF_SERVICE),
            ask(&speaker.netns, server.address, PORT),
        );
        let hosts = [netns_of_node(&self.world, NODES[0])?, netns_of_node(&self.world, NODES[1])?];
        let denied = [
            ask(&speaker.netns, INTERNET.0.parse()?, INTERNET.1),
            ask(&speaker.netns, cluster_ip(SINGLES + 1), PORT_OF_SERVICE),
            ask(&server.netns, cluster_ip(SINGLES + 1), PORT_OF_SERVICE),
            ask(&server.netns, self.primary[0], SINGLE_LOCAL + 1),
            ask(&hosts[1], self.primary[0], SINGLE_LOCAL + 1),
            // A node has masqueraded it, the pod's own or another one: nobody's word that it was the internet.
            ask(&self.internet, self.primary[0], SINGLE_CLUSTER + 1),
            ask(&self.internet, self.primary[1], SINGLE_CLUSTER + 1),
        ];
        self.world.wait("the policies are in force", || {
            denied[..3].iter().all(|question| question.ask(BRIEFLY).is_err()).then_some(())
        })?;
        all_must_fail(&denied)?;
        for question in [&by_service, &direct] {
            ensure!(question.ask(PATIENCE)?.who == server.full_name(), "another one answers");
        }
        let allowed = [
            ask(&self.internet, self.primary[0], SINGLE_LOCAL + 1),
            // A pod hears its own node always, as the kubelet must be heard.
            ask(&hosts[0], guarded.address, PORT),
            ask(&hosts[0], cluster_ip(SINGLES + 1), PORT_OF_SERVICE),
        ];
        for question in &allowed {
            ensure!(question.ask(PATIENCE)?.who == guarded.full_name(), "another one answers");
        }
        Ok(())
    }
}
