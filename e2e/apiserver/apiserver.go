// Package apiserver runs a real etcd and kube-apiserver for tests and benchmarks, as processes on loopback ports.
//
//	server, err := apiserver.Start(ctx, apiserver.Config{Dir: dir, Say: say})  // 3 s; the first time on a machine minutes: see e2e/cluster
//	defer server.Stop()
//	err = server.Install(ctx, apiserver.IstioCRDs, apiserver.GatewayCRDs)       // or later, or never
//	err = server.Apply(ctx, yaml)                                               // like kubectl apply, with statuses
//	client := server.Client()                                                   // typed, of an administrator, without a rate limit
//	file, err := server.Kubeconfig(ctx, apiserver.User{})                       // of an administrator, for --kubeconfig
//	file, err = server.Kubeconfig(ctx, apiserver.User{Namespace: "istio-system", Account: "istiod", Through: link})
//	token, err := server.Token(ctx, apiserver.Token{Namespace: "istio-system", Account: "ztunnel", Pod: "ztunnel-a", Audiences: []string{"istio-ca"}})
//
// There are no nodes, so pods don't run: a test writes their status. Nor are there controllers, except those that
// Config.Controllers names: "serviceaccount-controller", "namespace-controller" (without it a deleted namespace stays), and
// "garbage-collector-controller" (without it owned objects do). Pods may name any service account; tokens want one that exists.
//
// To make trouble: PauseEtcd and ResumeEtcd, StopAPI, KillAPI and StartAPI (same address and keys), and a Link, which is a
// proxy of TCP connections that can be cut.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/e2e/cluster"
	"github.com/tulle-mesh/tulle/e2e/keys"
)

// Config says what to run.
type Config struct {
	Dir string       // for data, logs and keys; it must be there, and belongs to the caller
	Say func(string) // is told about a build, which takes minutes; nil for nobody
	// Controllers of kube-controller-manager to run as well, by name.
	Controllers []string
	// Audit writes a line of JSON about each request to the file that AuditLog names.
	Audit bool
	// Lists makes those who follow objects list them first, as they have to with older servers: it doesn't stream what there is.
	Lists bool
}

// Server is a running etcd and API server.
type Server struct {
	dir       string
	programs  cluster.Programs
	config    Config
	authority *keys.Authority
	admin     *rest.Config
	client    *kubernetes.Clientset
	dynamic   *dynamic.DynamicClient
	mapper    *mapper

	etcdAddr, apiAddr string

	lock                   sync.Mutex // guards what follows
	etcd, api, controllers *process
	links                  []*Link
	configs                int // kubeconfig files written
}

// Start builds the programs if need be, and runs them until Stop, or until this process ends.
func Start(ctx context.Context, config Config) (*Server, error) {
	if config.Say == nil {
		config.Say = func(string) {}
	}
	programs, err := cluster.Build(ctx, config.Say)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: config.Dir, programs: programs, config: config}
	if err := s.start(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start an API server: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) (err error) {
	addrs, err := freeAddrs(3)
	if err != nil {
		return err
	}
	s.etcdAddr, s.apiAddr = addrs[0], addrs[1]
	if err := s.writeKeys(); err != nil {
		return err
	}
	if err := s.connect(); err != nil {
		return err
	}
	if err := s.startEtcd(addrs[2]); err != nil {
		return err
	}
	if err := s.StartAPI(ctx); err != nil {
		return err
	}
	return s.startControllers(ctx)
}

// Etcd is where the server keeps its objects, as host:port, without TLS.
func (s *Server) Etcd() string { return s.etcdAddr }

func (s *Server) startEtcd(peers string) (err error) {
	client, peer := "http://"+s.etcdAddr, "http://"+peers
	s.etcd, err = launch(s.programs.Path("etcd"), s.Log("etcd"),
		"--name=etcd", "--data-dir="+filepath.Join(s.dir, "etcd"), "--unsafe-no-fsync", "--quota-backend-bytes=8589934592",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=etcd="+peer,
		"--log-level=warn",
	)
	return err
}

// StartAPI runs the API server, again, at the address that it always had, and waits until it is ready.
func (s *Server) StartAPI(ctx context.Context) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	host, port, err := net.SplitHostPort(s.apiAddr)
	if err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(s.dir, name) }
	args := []string{
		"--etcd-servers=http://" + s.etcdAddr, "--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
		"--tls-cert-file=" + in(serverCert), "--tls-private-key-file=" + in(serverKey), "--client-ca-file=" + in(caFile),
		"--cert-dir=" + in("generated"), "--endpoint-reconciler-type=none",
		"--service-account-issuer=" + issuer, "--service-account-signing-key-file=" + in(tokenKey), "--service-account-key-file=" + in(tokenPub),
		"--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112", "--authorization-mode=RBAC", "--allow-privileged=true",
		"--disable-admission-plugins=ServiceAccount", // would want a controller to make each namespace's default account
		"--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--profiling=false",
	}
	if s.config.Lists {
		args = append(args, "--feature-gates=WatchList=false")
	}
	if s.config.Audit {
		if err := os.WriteFile(in("audit.yaml"), []byte(auditPolicy), 0o644); err != nil {
			return err
		}
		args = append(args, "--audit-policy-file="+in("audit.yaml"), "--audit-log-path="+s.AuditLog(), "--audit-log-mode=blocking")
	}
	if s.api, err = launch(s.programs.Path("kube-apiserver"), s.Log("kube-apiserver"), args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return s.api.until(ctx, "API server isn't ready", s.Ready)
}

const issuer = "https://kubernetes.default.svc.cluster.local"

// auditPolicy notes requests when they are answered, and watches when they begin.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`

// Ready asks whether requests are served.
func (s *Server) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	code := 0
	err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&code).Error()
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("/readyz: %d", code)
	}
	return err
}

func (s *Server) startControllers(ctx context.Context) error {
	if len(s.config.Controllers) == 0 {
		return nil
	}
	kubeconfig, err := s.Kubeconfig(ctx, User{})
	if err != nil {
		return err
	}
	s.controllers, err = launch(s.programs.Path("kube-controller-manager"), s.Log("kube-controller-manager"),
		"--kubeconfig="+kubeconfig, "--controllers="+strings.Join(s.config.Controllers, ","), "--leader-elect=false",
		"--kube-api-qps=500", "--kube-api-burst=1000", "--secure-port=0", "--root-ca-file="+filepath.Join(s.dir, caFile),
		"--service-account-private-key-file="+filepath.Join(s.dir, tokenKey),
	)
	return err
}

// StopAPI ends the API server in order.
func (s *Server) StopAPI() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.api.stop(20 * time.Second)
}

// KillAPI ends the API server as a crash would.
func (s *Server) KillAPI() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.api.kill()
}

// PauseEtcd stops etcd's process until ResumeEtcd: the API server waits.
func (s *Server) PauseEtcd() error { return s.etcd.cmd.Process.Signal(syscall.SIGSTOP) }

// ResumeEtcd lets etcd go on.
func (s *Server) ResumeEtcd() error { return s.etcd.cmd.Process.Signal(syscall.SIGCONT) }

// Stop ends everything. It must be called once, and its error says what ended before, which nothing should.
func (s *Server) Stop() error {
	s.lock.Lock()
	defer s.lock.Unlock()
	var errs []error
	for _, p := range []*process{s.controllers, s.etcd} {
		if p != nil {
			errs = append(errs, p.alive())
		}
	}
	for _, link := range s.links {
		link.close()
	}
	s.controllers.stop(2 * time.Second)
	if s.api != nil {
		s.api.kill() // in order, it would wait for its clients
	}
	s.etcd.stop(2 * time.Second)
	return errors.Join(errs...)
}

// Log is the file with a program's output.
func (s *Server) Log(program string) string { return filepath.Join(s.dir, program+".log") }

// TokenKey is the file with the key that signs tokens of accounts.
func (s *Server) TokenKey() string { return filepath.Join(s.dir, tokenKey) }

// AuditLog is the file with a line of JSON for each request, if Config.Audit is set: see k8s.io/apiserver/pkg/apis/audit.
func (s *Server) AuditLog() string { return filepath.Join(s.dir, "audit.log") }

// freeAddrs finds ports that nobody listens on.
func freeAddrs(count int) ([]string, error) {
	var addrs []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close() // all are open until all are found, so that they differ
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs, nil
}
