package controlplane

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

const webID = "spiffe://cluster.local/ns/shop/sa/web"

// account is a service account, as YAML.
func account(namespace, name string) string {
	return fmt.Sprintf("---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: %s, namespace: %s}}\n", name, namespace)
}

// signed asks for a certificate, again while the control plane doesn't know the caller yet.
func (w *world) signed(conn *grpc.ClientConn, identity delta.Identity, id string) ([]string, error) {
	w.t.Helper()
	request, err := delta.Request()
	if err != nil {
		w.t.Fatal(err)
	}
	var chain []string
	w.eventually("an answer about a certificate", func(ctx context.Context) error {
		chain, err = identity.Sign(ctx, conn, request, id)
		if status.Code(err) == codes.Unavailable {
			return err
		}
		return nil
	})
	return chain, err
}

// forged is a token that the API server's own key signs.
func (w *world) forged(change func(*jwt.Claims)) string {
	w.t.Helper()
	text, err := os.ReadFile(w.TokenKey())
	if err != nil {
		w.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	good, err := jwt.ParseSigned(w.token(apiserver.Token{}), []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		w.t.Fatal(err)
	}
	var claims jwt.Claims
	private := map[string]any{}
	if err := good.UnsafeClaimsWithoutVerification(&claims, &private); err != nil {
		w.t.Fatal(err)
	}
	change(&claims)
	options := (&jose.SignerOptions{}).WithHeader("kid", good.Headers[0].KeyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Claims(map[string]any{"kubernetes.io": private["kubernetes.io"]}).Serialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func TestWhoGetsWhichCertificate(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + pod("shop", "till", "node2", "10.1.0.2", true) + account("shop", "web") + account("shop", "ztunnel"))
	r := w.start(replicaSpec{}).ready()
	conn, good := w.dial(r), w.identity("node1")
	if chain, err := w.signed(conn, good, webID); err != nil || len(chain) != 2 {
		t.Fatalf("%d elements, %v", len(chain), err)
	}
	gone := w.identity("node3")
	w.delete(fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: istio-system}}", gone.Pod))
	with := func(token string) delta.Identity {
		identity := good
		identity.Token = token
		return identity
	}
	elsewhere := good
	elsewhere.Cluster = "west"
	const caller, impersonation = "request authentication failure", "request impersonation authentication failure"
	for name, c := range map[string]struct {
		identity        delta.Identity
		id, answer, log string
	}{
		"no token":                    {with(""), webID, caller, "no token"},
		"no JWT":                      {with("nonsense"), webID, caller, "the API server refuses the token"},
		"for another audience":        {with(w.token(apiserver.Token{Pod: good.Pod, Audiences: []string{"vault"}})), webID, caller, "the API server refuses the token"},
		"expired":                     {with(w.forged(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(-time.Hour)) })), webID, caller, "the API server refuses the token"},
		"signed by another key":       {with(good.Token[:len(good.Token)-8] + "AAAAAAAA"), webID, caller, "the API server refuses the token"},
		"of a deleted pod":            {gone, webID, caller, "the API server refuses the token"},
		"of another cluster":          {elsewhere, webID, caller, `the caller is of cluster \"west\", but this is \"Kubernetes\"`},
		"bound to no pod":             {with(w.token(apiserver.Token{})), webID, impersonation, "names neither a node nor a pod"},
		"of an app":                   {with(w.token(apiserver.Token{Namespace: "shop", Account: "web", Pod: "web"})), webID, impersonation, "account shop/web may not impersonate"},
		"of a namesake elsewhere":     {with(w.token(apiserver.Token{Namespace: "shop", Account: "ztunnel"})), webID, impersonation, "account shop/ztunnel may not impersonate"},
		"for a pod of another node":   {good, "spiffe://cluster.local/ns/shop/sa/till", impersonation, "node node1 has no running pod of account shop/till"},
		"for another trust domain":    {good, "spiffe://evil.example/ns/shop/sa/web", impersonation, "of another trust domain than cluster.local"},
		"for no SPIFFE identity":      {good, "web", impersonation, "web"},
		"for an account without pods": {good, "spiffe://cluster.local/ns/shop/sa/nobody", impersonation, "no running pod of account shop/nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			before := r.said()
			_, err := w.signed(conn, c.identity, c.id)
			if status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != c.answer {
				t.Errorf("answer: %v", err)
			}
			r.loggedFrom(before, "certificate refused", c.log)
		})
	}
	// An app gets its own.
	if _, err := w.signed(conn, with(w.token(apiserver.Token{Namespace: "shop", Account: "web", Pod: "web"})), ""); err != nil {
		t.Errorf("an app's own: %v", err)
	}
}

// A node's proxy that comes anew has the name of the one before, if a StatefulSet makes it, but neither its uid nor its token.
func TestAProxyThatComesAnewIsServedAndTheOldOneNot(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	conn := w.dial(r)
	for range 5 {
		old := w.identity("node1")
		if _, err := w.signed(conn, old, webID); err != nil {
			t.Fatal(err)
		}
		w.delete(fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: istio-system}}", old.Pod))
		next := w.identity("node1")
		if _, err := w.signed(conn, next, webID); err != nil {
			t.Errorf("the new one: %v", err)
		}
		// For at most 10 s it counts as proven, but its pod isn't there any more.
		request, err := delta.Request()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := old.Sign(t.Context(), conn, request, webID); err == nil {
			t.Error("the old one is still served")
		}
	}
}

func TestARevokedTokenWorksForTenSecondsAtMost(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + account("shop", "web"))
	r := w.start(replicaSpec{}).ready()
	conn := w.dial(r)
	identity := delta.Identity{Token: w.token(apiserver.Token{Namespace: "shop", Account: "web", Pod: "web"})}
	if _, err := w.signed(conn, identity, ""); err != nil {
		t.Fatal(err)
	}
	w.delete(account("shop", "web"))
	began := time.Now()
	var last time.Time // when a call began that was still served
	w.eventually("the token to be refused", func(ctx context.Context) error {
		request, err := delta.Request()
		if err != nil {
			return err
		}
		asked := time.Now()
		_, err = identity.Sign(ctx, conn, request, "")
		if err == nil {
			last = asked
		}
		if status.Code(err) != codes.Unauthenticated {
			return fmt.Errorf("have %v", err)
		}
		return nil
	})
	if worked := last.Sub(began); worked > 10*time.Second {
		t.Errorf("a revoked token worked for %s", worked)
	}
}

func TestWithoutTheAPIServerCallersAreToldToComeAgain(t *testing.T) {
	w := ownWorld(t, worldSpec{})
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	conn, identity, other := w.dial(r), w.identity("node1"), w.identity("node2")
	p := w.join(r, "node1").settled()
	p.workload(podName(system, other.Pod), nil)
	if _, err := w.signed(conn, identity, webID); err != nil {
		t.Fatal(err)
	}
	w.KillAPI()
	request, err := delta.Request()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	if _, err := other.Sign(ctx, conn, request, webID); status.Code(err) != codes.Unavailable {
		t.Errorf("answer: %v", err)
	}
	r.logged("certificate refused", "review token", "try again")
	if err := w.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.signed(conn, other, "spiffe://cluster.local/ns/istio-system/sa/ztunnel"); err != nil {
		t.Errorf("when it is back: %v", err)
	}
	p.undisturbed()
}

func TestAClientThatAsksTooOftenIsSlowedDownAlone(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	conn, greedy, modest := w.dial(r), w.identity("node1"), w.identity("node2")
	for _, identity := range []delta.Identity{greedy, modest} {
		if _, err := w.signed(conn, identity, "spiffe://cluster.local/ns/istio-system/sa/ztunnel"); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	var judged, slowed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	for range 16 {
		group.Go(func() {
			for ctx.Err() == nil {
				// A bad request costs nothing to make, and counts.
				switch _, err := greedy.Sign(ctx, conn, "", webID); status.Code(err) {
				case codes.InvalidArgument:
					judged.Add(1)
				case codes.ResourceExhausted:
					slowed.Add(1)
				}
			}
		})
	}
	w.eventually("the greedy one to be slowed down", func(context.Context) error {
		if slowed.Load() < 100 {
			return fmt.Errorf("%d of %d requests", slowed.Load(), slowed.Load()+judged.Load())
		}
		return nil
	})
	for range 20 {
		if _, err := w.signed(conn, modest, "spiffe://cluster.local/ns/istio-system/sa/ztunnel"); err != nil {
			t.Errorf("the other one, meanwhile: %v", err)
		}
	}
	cancel()
	group.Wait()
	// 1,000 at once, and 200 a second.
	if most := int64(1000 + 200*time.Since(began).Seconds()); judged.Load() > most {
		t.Errorf("the greedy one got %d answers, want at most %d", judged.Load(), most)
	}
	t.Logf("%d requests answered, %d put off in %s", judged.Load(), slowed.Load(), time.Since(began).Round(time.Millisecond))
}

// connections counts those that clients have to an address of this machine, such as "https://127.0.0.1:6443".
func connections(t *testing.T, to string) int {
	t.Helper()
	_, port, _ := strings.Cut(strings.TrimPrefix(to, "https://"), ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		// Each is a number, its own address, the other's, and its state, of which 01 is established.
		if fields := strings.Fields(line); len(fields) > 3 && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", number)) && fields[3] == "01" {
			count++
		}
	}
	return count
}

func TestReplicasThatStartAtOnceShareOneRoot(t *testing.T) {
	w := ownWorld(t, worldSpec{Audit: true})
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	identity := w.identity("node1")
	made := map[int]int{} // attempts to make the root, by their answers
	rounds := 0
	for ; made[http.StatusConflict] == 0 && rounds < 5; rounds++ { // until two did it at the same moment
		w.startAtOnce(identity, rounds)
		clear(made)
		for _, r := range w.audit() {
			if r.Verb == "create" && r.Kind() == "secrets" {
				made[r.ResponseStatus.Code]++
			}
		}
		if made[http.StatusCreated] != rounds+1 {
			t.Fatalf("the root was made %d times in %d rounds", made[http.StatusCreated], rounds+1)
		}
	}
	if made[http.StatusConflict] == 0 {
		t.Errorf("in %d rounds no two replicas made the root at the same moment", rounds)
	}
	t.Logf("%d rounds, attempts to make the root by their answers: %v", rounds, made)
}

// startAtOnce has three replicas start without a root, checks that all sign by the same, and removes them and the root.
func (w *world) startAtOnce(identity delta.Identity, round int) {
	w.t.Helper()
	// While etcd doesn't answer, all of them come to the point where they ask for the root.
	if err := w.PauseEtcd(); err != nil {
		w.t.Fatal(err)
	}
	before := connections(w.t, w.Config().Host)
	var replicas []*replica
	for i := range 3 {
		replicas = append(replicas, w.start(replicaSpec{Name: fmt.Sprintf("istiod-%d-%d", round, i)}))
	}
	w.eventually("all of them to ask", func(context.Context) error {
		if now := connections(w.t, w.Config().Host); now < before+len(replicas) {
			return fmt.Errorf("%d connections, %d before", now, before)
		}
		return nil
	})
	if err := w.ResumeEtcd(); err != nil {
		w.t.Fatal(err)
	}
	secrets := w.Client().CoreV1().Secrets(system)
	for _, r := range replicas {
		chain, err := w.signed(w.dial(r.ready()), identity, webID)
		if err != nil {
			w.t.Fatal(err)
		}
		secret, err := secrets.Get(w.t.Context(), "istio-ca-secret", metav1.GetOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		if root := string(secret.Data["root-cert.pem"]); secret.Type != "istio.io/ca-root" || chain[len(chain)-1] != root {
			w.t.Errorf("%s signs by %q, in the Secret of type %q is %q", r.name, chain[len(chain)-1], secret.Type, root)
		}
	}
	for _, r := range replicas {
		r.stop()
	}
	if err := secrets.Delete(w.t.Context(), "istio-ca-secret", metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
	// Else the next replicas would be told of this root.
	if err := w.Client().CoreV1().ConfigMaps(system).Delete(w.t.Context(), "istio-ca-root-cert", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		w.t.Fatal(err)
	}
}

// Were it not put back, a replica that starts later would make another root.
func TestADeletedRootIsPutBack(t *testing.T) {
	w := newWorld(t)
	r := w.start(replicaSpec{Env: []string{"CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL=200ms"}}).ready()
	before, err := w.signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Client().CoreV1().Secrets(system).Delete(t.Context(), "istio-ca-secret", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the root to come back", func(ctx context.Context) error {
		after, err := w.signer(ctx)
		if err == nil && after != before {
			w.t.Fatal("another root came")
		}
		return err
	})
	r.logged("the authority's secret is gone: it is put back")
}

// What can't be read doesn't replace what is in use.
func TestADamagedRootIsNotUsed(t *testing.T) {
	w := newWorld(t)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{Env: []string{"CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL=200ms"}}).ready()
	conn, identity := w.dial(r), w.identity("node1")
	before, err := w.signed(conn, identity, webID)
	if err != nil {
		t.Fatal(err)
	}
	secrets := w.Client().CoreV1().Secrets(system)
	secret, err := secrets.Get(t.Context(), "istio-ca-secret", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data["ca-cert.pem"] = []byte("nonsense")
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.logged("authority not read, the one before stays in use", "ca-cert.pem: no certificate in PEM")
	after, err := w.signed(conn, identity, webID)
	if err != nil || after[len(after)-1] != before[len(before)-1] {
		t.Errorf("%v", err)
	}
}
