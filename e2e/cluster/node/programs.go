package node

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// program is one that the node runs.
type program struct {
	name string
	args []string
	when func() bool // it is started when this is true; nil for at once

	pid   int       // 0 when it doesn't run
	after time.Time // it isn't started before
}

// programs lists what the node runs.
func (n *node) programs() []*program {
	api := n.apiReady
	all := []*program{
		{name: "containerd"},
		{name: "kubelet", when: api, args: []string{
			"--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=" + n.Key(n.name()+".conf"), "--hostname-override=" + n.name(),
			"--node-ip=" + n.Address(n.number).String(),
			"--node-labels=topology.kubernetes.io/region=r1,topology.kubernetes.io/zone=z" + n.name()[1:],
		}},
		{name: "kube-proxy", when: api, args: []string{"--config=/etc/kubernetes/kube-proxy.yaml"}},
	}
	if n.number != 1 {
		return all
	}
	const etcd = "http://127.0.0.1:2379"
	// They lead, or they end: one that doesn't hear of the nodes for a while, since the API server is away, starts afresh instead of taking them for lost.
	limits := []string{"--leader-elect", "--kube-api-qps=500", "--kube-api-burst=1000"}
	return append(all,
		&program{name: "etcd", args: []string{
			"--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn", "--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=http://127.0.0.1:2380",
		}},
		&program{name: "kube-apiserver", args: []string{
			"--etcd-servers=" + etcd, "--advertise-address=" + n.Address(1).String(), "--service-cluster-ip-range=" + n.Services().String(),
			"--tls-cert-file=" + n.Key("apiserver.crt"), "--tls-private-key-file=" + n.Key("apiserver.key"), "--client-ca-file=" + n.Key("ca.crt"),
			"--kubelet-client-certificate=" + n.Key("kubelet-client.crt"), "--kubelet-client-key=" + n.Key("kubelet-client.key"),
			"--kubelet-certificate-authority=" + n.Key("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-signing-key-file=" + n.Key("sa.key"), "--service-account-key-file=" + n.Key("sa.pub"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		}},
		&program{name: "kube-controller-manager", when: api, args: append([]string{
			"--kubeconfig=" + n.Key("kube-controller-manager.conf"), "--use-service-account-credentials", "--root-ca-file=" + n.Key("ca.crt"),
			"--service-account-private-key-file=" + n.Key("sa.key"), "--node-monitor-period=500ms",
		}, limits...)},
		&program{name: "kube-scheduler", when: api, args: append([]string{"--kubeconfig=" + n.Key("kube-scheduler.conf")}, limits...)},
	)
}

// poll is how often a program is looked for that can't be started yet, and how long one rests that has ended.
const (
	poll = 50 * time.Millisecond
	rest = time.Second
)

// serve starts the programs, and again those that end. It also buries whatever loses its parent.
func (n *node) serve() error {
	logs, err := n.path("log")
	if err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	all := n.programs()
	for {
		waits := false
		for _, p := range all {
			if p.pid == 0 && time.Now().After(p.after) && (p.when == nil || p.when()) {
				if err := p.start(logs); err != nil {
					return err
				}
			}
			waits = waits || p.pid == 0
		}
		var again <-chan time.Time
		if waits {
			again = time.After(poll)
		}
		select {
		case <-again:
		case <-ended:
		}
		bury(all)
	}
}

// bury takes note of all that have ended.
func bury(all []*program) {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 && err != syscall.EINTR {
			return
		}
		for _, p := range all {
			if p.pid == pid {
				p.pid, p.after = 0, time.Now().Add(rest)
			}
		}
	}
}

func (p *program) start(logs string) error {
	log, err := os.OpenFile(filepath.Join(logs, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.name, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	p.pid = cmd.Process.Pid // bury waits for it
	return nil
}

// apiReady asks the API server whether it is ready.
func (n *node) apiReady() bool {
	ca, err := os.ReadFile(n.Key("ca.crt"))
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
		Timeout:   time.Second,
	}
	answer, err := client.Get(n.API() + "/readyz")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
