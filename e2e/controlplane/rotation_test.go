package controlplane

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// crowd are workloads that talk with each other by mutual TLS all the time, while each gets a new certificate now and then,
// at a time of its own and from any replica.
type crowd struct {
	w      *world
	proxy  delta.Identity
	conns  []*grpc.ClientConn
	id     identity.Workload
	period time.Duration // between two certificates of a workload

	lock       sync.Mutex // guards what follows
	members    []*mtls.Credential
	renewals   []int // certificates that each member got
	rounds     int   // in which all talked with all
	handshakes int
	failures   []string
	roots      map[string]bool // bundles that were seen
}

// gather makes a crowd of the account shop/web on node1, and has it talk until the test calls the function.
func (w *world) gather(size int, period time.Duration, conns ...*grpc.ClientConn) (c *crowd, leave func()) {
	w.t.Helper()
	c = &crowd{w: w, proxy: w.identity("node1"), conns: conns, period: period, members: make([]*mtls.Credential, size), renewals: make([]int, size), roots: map[string]bool{}}
	var err error
	if c.id, err = identity.Parse(webID); err != nil {
		w.t.Fatal(err)
	}
	for i := range c.members {
		w.eventually("the first certificates", func(ctx context.Context) error { return c.renew(ctx, i, i) })
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var group sync.WaitGroup
	for i := range c.members {
		group.Go(func() { c.keepRenewing(ctx, i) })
	}
	group.Go(func() { c.talk(ctx) })
	leave = sync.OnceFunc(func() { cancel(); group.Wait() })
	w.t.Cleanup(leave)
	return c, leave
}

// renew gets a new certificate for a member.
func (c *crowd) renew(ctx context.Context, member, round int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	request := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	chain, err := c.proxy.Sign(ctx, c.conns[round%len(c.conns)], request, c.id.String())
	if err != nil {
		return err
	}
	credential, err := mtls.NewCredential(key, chain)
	if err != nil {
		return err
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	c.members[member] = credential
	c.renewals[member]++
	c.roots[credential.RootsPEM] = true
	return nil
}

func (c *crowd) keepRenewing(ctx context.Context, member int) {
	for round := member; ; round++ {
		// The slowest keeps its certificate three times as long as the others.
		period := c.period
		if member == 0 {
			period *= 3
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
		if err := c.renew(ctx, member, round); err != nil && ctx.Err() == nil {
			c.fail("certificate for %d: %v", member, err)
		}
	}
}

func (c *crowd) fail(format string, values ...any) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.failures = append(c.failures, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, values...))
}

// talk makes handshakes between all members, one after the other.
func (c *crowd) talk(ctx context.Context) {
	for ctx.Err() == nil {
		c.lock.Lock()
		members := slices.Clone(c.members)
		c.lock.Unlock()
		for i, server := range members {
			for j, client := range members {
				if err := shake(mtls.Policy{}.ServerConfig(server), mtls.Policy{}.ClientConfig(client, []identity.Workload{c.id})); err != nil {
					c.fail("%d → %d: %v", j, i, err)
				}
				c.lock.Lock()
				c.handshakes++
				c.lock.Unlock()
			}
		}
		c.lock.Lock()
		c.rounds++
		c.lock.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // leaves the machine to others
		}
	}
}

// renewed waits until every member has a certificate that it asked for after the call, and all have talked with those.
func (c *crowd) renewed() {
	c.w.t.Helper()
	before, rounds := c.progress()
	c.w.eventually("every workload to get another certificate", func(context.Context) error {
		var now []int
		now, rounds = c.progress()
		for member, renewals := range now {
			if renewals < before[member]+2 { // one may have been under way
				return fmt.Errorf("%d has got %d", member, renewals-before[member])
			}
		}
		return nil
	})
	c.w.eventually("all to talk with all", func(context.Context) error {
		if _, now := c.progress(); now < rounds+2 {
			return fmt.Errorf("%d rounds", now-rounds)
		}
		return nil
	})
}

func (c *crowd) progress() (renewals []int, rounds int) {
	c.lock.Lock()
	defer c.lock.Unlock()
	return slices.Clone(c.renewals), c.rounds
}

// shake makes a handshake in memory.
func shake(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(slow)
	if err := errors.Join(a.SetDeadline(deadline), b.SetDeadline(deadline)); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).Handshake() }()
	err := tls.Client(b, client).Handshake()
	if err != nil {
		b.Close()
	}
	return errors.Join(err, <-done)
}

// check fails the test if a handshake failed.
func (c *crowd) check() {
	c.w.t.Helper()
	c.lock.Lock()
	defer c.lock.Unlock()
	if len(c.failures) > 0 {
		c.w.t.Errorf("%d failures in %d handshakes, at first: %.5q", len(c.failures), c.handshakes, c.failures[:min(5, len(c.failures))])
	}
	c.w.t.Logf("%d handshakes of %d workloads, %d bundles of roots", c.handshakes, len(c.members), len(c.roots))
}

// signer is the certificate that the Secret says to sign with.
func (w *world) signer(ctx context.Context) (string, error) {
	secret, err := w.Client().CoreV1().Secrets(system).Get(ctx, "istio-ca-secret", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return string(secret.Data["ca-cert.pem"]), nil
}

// A root of 40 seconds' life: the next one is announced after 20, signs after 28, and is alone from 40 on.
func TestNoHandshakeFailsWhileTheRootIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	env := []string{
		"CITADEL_SELF_SIGNED_CA_CERT_TTL=40s", "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE=50",
		"CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL=500ms",
		"DEFAULT_WORKLOAD_CERT_TTL=8s", "MAX_WORKLOAD_CERT_TTL=20s",
	}
	a := w.start(replicaSpec{Name: "istiod-a", Env: env})
	b := w.start(replicaSpec{Name: "istiod-b", Env: env})
	a.ready()
	b.ready()
	c, leave := w.gather(6, time.Second, w.dial(a), w.dial(b))
	signers := map[string]bool{}
	p := w.join(a, "node1").settled()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w.await(ctx, "two new roots to sign", func(ctx context.Context) error {
		signer, err := w.signer(ctx)
		if err != nil {
			return err
		}
		if signers[signer] = true; len(signers) < 3 {
			return fmt.Errorf("%d roots have signed", len(signers))
		}
		return nil
	})
	c.renewed()
	leave()
	c.check()
	p.undisturbed()
	if len(c.roots) < 4 {
		t.Errorf("only %d bundles of roots were seen", len(c.roots))
	}
}

// authority is a signing certificate of somebody's own tools.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(t *testing.T, name string, by *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	parent := &authority{template, key}
	if by != nil {
		parent = by
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// plug replaces the authority in a folder in one step, as the kubelet does.
func plug(t *testing.T, dir string, signer *authority, roots ...*authority) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(signer.key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := ""
	for _, root := range roots {
		bundle += root.pem()
	}
	version, err := os.MkdirTemp(dir, "..version-")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"ca-cert.pem": signer.pem(), "cert-chain.pem": signer.pem(), "root-cert.pem": bundle,
		"ca-key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	} {
		if err := os.WriteFile(filepath.Join(version, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Base(version), filepath.Join(dir, "..new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

func TestNoHandshakeFailsWhileAPluggedAuthorityIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	one, other := newAuthority(t, "root 1", nil), newAuthority(t, "root 2", nil)
	first, second, moved := newAuthority(t, "first", one), newAuthority(t, "second", one), newAuthority(t, "moved", other)
	dir := t.TempDir()
	plug(t, dir, first, one)
	r := w.start(replicaSpec{Args: []string{"--cacerts", dir}, Env: []string{"DEFAULT_WORKLOAD_CERT_TTL=20s"}}).ready()
	roots := x509.NewCertPool()
	roots.AddCert(one.cert)
	conn, err := delta.Dial(r.tls, "istiod."+system+".svc", roots)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, leave := w.gather(6, 500*time.Millisecond, conn)
	for _, step := range []struct {
		signer *authority
		roots  []*authority
	}{{second, []*authority{one}}, {second, []*authority{one, other}}, {moved, []*authority{one, other}}, {moved, []*authority{other}}} {
		plug(t, dir, step.signer, step.roots...)
		r.logged("plugged authority replaced", step.signer.cert.Subject.CommonName, fmt.Sprintf("roots=%d", len(step.roots)))
		c.renewed()
	}
	// What would cut clients off is refused, and the traffic goes on.
	plug(t, dir, first, one)
	r.logged("plugged authority not used", "the roots are others")
	leave()
	c.check()
	if len(c.roots) != 3 {
		t.Errorf("%d bundles of roots were seen, want 3", len(c.roots))
	}
	if _, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), "istio-ca-secret", metav1.GetOptions{}); err == nil {
		t.Error("made an authority of its own beside the plugged one")
	}
}
