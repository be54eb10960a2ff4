package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/rpc"
	"os"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
)

// A party is a program in a pod that is a server of everybody, and a client that asks as it is told, by net/rpc over its standard input and output.
// It stands for an application and its ztunnel at once. What it costs isn't counted.
type party struct {
	worker *worker.Worker
	id     identity.Workload
	certs  *certs.Manager
	tunnel *hbone.Server

	mu  sync.Mutex // guards job
	job *job       // nil: none runs
}

// The variables that tell a party who it is.
const (
	accountVariable = "TULLE_BENCH_ACCOUNT"
	planeVariable   = "TULLE_BENCH_CONTROL_PLANE"
	rootVariable    = "TULLE_BENCH_ROOT"
	tokenVariable   = "TULLE_BENCH_TOKEN"
)

// The ports of a server.
const (
	httpPort   = 8080
	grpcPort   = 8081
	tunnelPort = 15008
)

func serveParty() error {
	id, err := identity.New("cluster.local", namespace, os.Getenv(accountVariable))
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	conn, err := controlplane.Dial(controlplane.Config{
		Address: "https://" + os.Getenv(planeVariable), RootCA: os.Getenv(rootVariable), ServerName: controlPlaneName, Token: os.Getenv(tokenVariable), ClusterID: "Kubernetes",
	}, log)
	if err != nil {
		return err
	}
	workers, err := worker.Start(1)
	if err != nil {
		return err
	}
	p := &party{worker: workers[0], id: id, certs: certs.NewManager(certs.NewIstioCA(conn, false), log, 24*time.Hour)}
	go func() { _ = p.certs.Run(context.Background()) }()
	if err := p.worker.Do(func() { err = p.listen() }); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Party", &control{p}); err != nil {
		return err
	}
	server.ServeConn(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	return nil
}

// pool makes tunnels, as a ztunnel would for one client.
func (p *party) pool() *hbone.Pool {
	return hbone.NewPool(hbone.PoolConfig{
		Loop: p.worker.Loop,
		Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
			dialling, err := p.worker.Dial(nil, addr, socket.DialConfig{}, done)
			if err != nil {
				return nil, err
			}
			return dialling.Cancel, nil
		},
		TLS: func(ctx context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error) {
			credential, err := p.certs.Get(ctx, source)
			if err != nil {
				return nil, err
			}
			return mtls.Policy{}.ClientConfig(credential, expected), nil
		},
	})
}

// control is what a party is told.
type control struct{ party *party }

// Start begins a job, and returns when its connections stand.
func (c *control) Start(spec Job, _ *struct{}) error {
	p := c.party
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.job != nil {
		return fmt.Errorf("start %s: another job runs", spec.Path)
	}
	j := &job{Job: spec, party: p, first: make(chan error, 1), seen: map[string]time.Time{}}
	if err := p.worker.Do(j.begin); err != nil {
		return err
	}
	if err := <-j.first; err != nil {
		_ = p.worker.Do(j.end)
		return err
	}
	p.job = j
	return nil
}

// Stop ends the job.
func (c *control) Stop(struct{}, *struct{}) error {
	p := c.party
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.job == nil {
		return nil
	}
	err := p.worker.Do(p.job.end)
	p.job = nil
	return err
}

// Read returns the counters since the beginning of the job, and latencies since the last reading.
func (c *control) Read(_ struct{}, totals *Totals) error {
	p := c.party
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.job == nil {
		return nil
	}
	return p.worker.Do(func() { *totals = p.job.totals() })
}
