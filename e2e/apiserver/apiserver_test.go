package apiserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// slow is the patience with things that take no time on an idle machine.
const slow = 30 * time.Second

func start(t *testing.T, config Config) *Server {
	t.Helper()
	config.Dir = t.TempDir()
	config.Say = func(line string) { t.Log(line) }
	server, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		for _, addr := range []string{server.apiAddr, server.etcdAddr} {
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Errorf("somebody still listens on %s", addr)
			}
		}
	})
	return server
}

// client connects as a kubeconfig says.
func client(t *testing.T, s *Server, user User) *kubernetes.Clientset {
	t.Helper()
	file, err := s.Kubeconfig(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = 5 * time.Second
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func apply(t *testing.T, s *Server, yaml string) {
	t.Helper()
	if err := s.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
}

const proxyPod = `
{apiVersion: v1, kind: ServiceAccount, metadata: {name: ztunnel, namespace: istio-system}}
---
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-a, namespace: istio-system}
spec: {serviceAccountName: ztunnel, nodeName: a, containers: [{name: app, image: app}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
`

func TestTokensAreOfAnAccountAndItsPodForAnAudience(t *testing.T) {
	s := start(t, Config{})
	apply(t, s, proxyPod)
	token, err := s.Token(t.Context(), Token{Namespace: "istio-system", Account: "ztunnel", Pod: "ztunnel-a", Audiences: []string{"istio-ca"}})
	if err != nil {
		t.Fatal(err)
	}
	for audience, want := range map[string]bool{"istio-ca": true, "vault": false} {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}
		review, err := s.Client().AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil || review.Status.Authenticated != want {
			t.Errorf("audience %s: %+v %v", audience, review.Status, err)
		}
		if want && review.Status.User.Extra["authentication.kubernetes.io/pod-name"][0] != "ztunnel-a" {
			t.Errorf("bound to no pod: %+v", review.Status.User)
		}
	}
}

func TestAccountsMayDoWhatRolesSay(t *testing.T) {
	s := start(t, Config{Audit: true})
	apply(t, s, proxyPod+`
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: ztunnel, namespace: istio-system}]
`)
	c := client(t, s, User{Namespace: "istio-system", Account: "ztunnel"})
	if pods, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil || len(pods.Items) != 1 || pods.Items[0].Status.PodIPs[0].IP != "10.0.0.1" {
		t.Errorf("pods: %v %v", pods, err)
	}
	if _, err := c.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("services: %v, want it forbidden", err)
	}
	text, err := os.ReadFile(s.AuditLog())
	if err != nil || !strings.Contains(string(text), `"username":"system:serviceaccount:istio-system:ztunnel"`) {
		t.Errorf("no word of the account in the audit log: %v", err)
	}
}

func TestObjectsOutliveTheAPIServer(t *testing.T) {
	s := start(t, Config{})
	apply(t, s, proxyPod)
	s.StopAPI()
	if err := s.Ready(t.Context()); err == nil {
		t.Error("it serves after it was stopped")
	}
	if err := s.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().CoreV1().Pods("istio-system").Get(t.Context(), "ztunnel-a", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	s.KillAPI()
	if err := s.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRequestsWaitWhileEtcdIsPaused(t *testing.T) {
	s := start(t, Config{})
	if err := s.PauseEtcd(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Apply(ctx, proxyPod); err == nil {
		t.Error("something could be written")
	}
	if err := s.ResumeEtcd(); err != nil {
		t.Fatal(err)
	}
	apply(t, s, proxyPod)
}

func TestDefinitionsComeAndGo(t *testing.T) {
	s := start(t, Config{})
	policy := "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: shop}, spec: {}}"
	if err := s.Apply(t.Context(), policy); err == nil {
		t.Error("a kind that isn't defined was taken")
	}
	if err := s.Install(t.Context(), IstioCRDs, GatewayCRDs); err != nil {
		t.Fatal(err)
	}
	apply(t, s, policy)
	kind := schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}
	if _, err := s.Get(t.Context(), kind, "shop", "none"); err != nil {
		t.Error(err)
	}
	if err := s.Uninstall(t.Context(), IstioCRDs); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kind to go", func() bool { _, err := s.Get(t.Context(), kind, "shop", "none"); return err != nil })
}

func TestALinkCanBeCutAndBlocked(t *testing.T) {
	s := start(t, Config{})
	link, err := s.Link()
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, s, User{Through: link})
	watch, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	link.Block()
	ended := time.After(slow)
	for open := true; open; {
		select {
		case _, open = <-watch.ResultChan():
		case <-ended:
			t.Fatal("the watch goes on")
		}
	}
	if _, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("served through a blocked link")
	}
	link.Unblock()
	eventually(t, "served again", func() bool { _, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); return err == nil })
}

func TestWhatCameSinceASnapshotGoes(t *testing.T) {
	s := start(t, Config{Controllers: []string{"namespace-controller", "garbage-collector-controller"}})
	if err := s.Install(t.Context(), GatewayCRDs); err != nil {
		t.Fatal(err)
	}
	const class = `
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: %s}, spec: {controllerName: example.com/c}}
`
	apply(t, s, "{apiVersion: v1, kind: ConfigMap, metadata: {name: older, namespace: kept}}\n---"+fmt.Sprintf(class, "older"))
	before, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what came again goes again
		apply(t, s, proxyPod+"---"+fmt.Sprintf(class, "newer")+`---
{apiVersion: v1, kind: ConfigMap, metadata: {name: newer, namespace: kept}}
---
{apiVersion: v1, kind: Node, metadata: {name: a}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: newer}, rules: []}
`)
		if err := s.Restore(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		left, err := s.Snapshot(t.Context())
		if err != nil || !left.objects.Equal(before.objects) {
			t.Errorf("%d objects are left of %d, and %v", left.objects.Len(), before.objects.Len(), err)
		}
	}
}

func TestDeletedNamespacesGoWithTheirController(t *testing.T) {
	s := start(t, Config{Controllers: []string{"namespace-controller"}})
	apply(t, s, "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}}")
	if err := s.Delete(t.Context(), "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace to go", func() bool {
		_, err := s.Client().CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(slow)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", slow, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
