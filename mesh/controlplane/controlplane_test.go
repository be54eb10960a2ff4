package controlplane_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	capb "github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func dial(t *testing.T, config controlplane.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := controlplane.Dial(config, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call makes some call and returns its error. That the server refuses what is asked for is none.
func call(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := capb.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &capb.IstioCertificateRequest{})
	if err != nil && strings.Contains(err.Error(), `identity ""`) {
		return nil
	}
	return err
}

func newServer(t *testing.T) *fakeistiod.Server {
	return fakeistiod.New(t, testca.New(t, "cluster.local"))
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachCallCarriesTheTokenOfItsTime(t *testing.T) {
	server := newServer(t)
	token := write(t, filepath.Join(t.TempDir(), "token"), "one\n")
	conn := dial(t, controlplane.Config{
		Address: server.Address(), RootCA: server.RootFile(), Token: token, ClusterID: "Kubernetes",
		Headers: map[string]string{"X-Tenant": "blue"},
	})
	for _, want := range []string{"one", "two"} {
		write(t, token, want+"\n")
		if err := call(conn); err != nil {
			t.Fatal(err)
		}
		signed := server.Signed()
		header := signed[len(signed)-1]
		for name, value := range map[string]string{"authorization": "Bearer " + want, "clusterid": "Kubernetes", "x-tenant": "blue"} {
			if got := header.Get(name); len(got) != 1 || got[0] != value {
				t.Errorf("header %s = %q, want %q", name, got, value)
			}
		}
	}
}

func TestTokenMayBeGivenItself(t *testing.T) {
	server := newServer(t)
	for token, want := range map[string]string{"eyJh.eyJp.c2ln-_": "[Bearer eyJh.eyJp.c2ln-_]", "": "[]"} {
		if err := call(dial(t, controlplane.Config{Address: server.Address(), RootCA: server.RootFile(), Token: token})); err != nil {
			t.Fatal(err)
		}
		signed := server.Signed()
		if got := signed[len(signed)-1].Get("authorization"); "["+strings.Join(got, ",")+"]" != want {
			t.Errorf("with token %q the header is %q, want %s", token, got, want)
		}
	}
}

func TestMissingTokenNamesTheFileAndMends(t *testing.T) {
	server := newServer(t)
	token := filepath.Join(t.TempDir(), "token")
	var logged bytes.Buffer
	conn, err := controlplane.Dial(controlplane.Config{Address: server.Address(), RootCA: server.RootFile(), Token: token},
		slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !strings.Contains(logged.String(), token) {
		t.Errorf("logged %q, want the missing file's name", &logged)
	}
	for _, content := range []string{"", " \n", "two\nlines"} {
		if content != "" {
			write(t, token, content)
		}
		if err := call(conn); err == nil || !strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "mount") {
			t.Errorf("with %q in the token file: %v, want its name and a remedy", content, err)
		}
	}
	write(t, token, "good")
	if err := call(conn); err != nil {
		t.Errorf("after the token came: %v", err)
	}
}

func TestNewConnectionsTrustTheRootsOfTheirTime(t *testing.T) {
	server := newServer(t)
	good, err := os.ReadFile(server.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root-cert.pem")
	conn := dial(t, controlplane.Config{Address: server.Address(), RootCA: path})
	if err := call(conn); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "mount the file") {
		t.Errorf("without a root file: %v, want its name and a remedy", err)
	}
	mended := func() {
		t.Helper()
		conn.ResetConnectBackoff()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for call(conn) != nil {
			if ctx.Err() != nil {
				t.Fatal("no call succeeds with the right roots")
			}
			conn.ResetConnectBackoff()
		}
	}
	write(t, path, string(good))
	mended()

	write(t, path, testca.New(t, "cluster.local").RootsPEM())
	if err := call(conn); err != nil {
		t.Errorf("on the established connection: %v", err)
	}
	server.Restart()
	var failure error
	for deadline := time.Now().Add(10 * time.Second); failure == nil || !strings.Contains(failure.Error(), "unknown authority"); {
		if failure = call(conn); time.Now().After(deadline) {
			t.Fatalf("with the roots of somebody else: %v", failure)
		}
	}
	if !strings.Contains(failure.Error(), "is "+path+" the root certificate") {
		t.Errorf("with the roots of somebody else: %v, want the file's name", failure)
	}
	write(t, path, string(good))
	mended()
}

func TestRootsInline(t *testing.T) {
	server := newServer(t)
	pem, err := os.ReadFile(server.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := call(dial(t, controlplane.Config{Address: server.Address(), RootCA: string(pem)})); err != nil {
		t.Error(err)
	}
}

func TestRootsOfTheMachineDoNotVouchForTheFake(t *testing.T) {
	server := newServer(t)
	err := call(dial(t, controlplane.Config{Address: server.Address(), RootCA: "SYSTEM"}))
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("call = %v, want an unknown authority", err)
	}
}

func TestServerHasToProveItsName(t *testing.T) {
	server := newServer(t)
	for name, want := range map[string]string{"": "", "istiod.istio-system.svc": "", "istiod.other.svc": "not istiod.other.svc"} {
		err := call(dial(t, controlplane.Config{Address: server.Address(), RootCA: server.RootFile(), ServerName: name}))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("with name %q: %v, want %q", name, err, want)
		}
	}
}

func TestBadConfigurationIsRefusedAtOnce(t *testing.T) {
	for _, test := range []struct{ address, root, want string }{
		{"", "SYSTEM", "want https://host:port"},
		{"istiod", "SYSTEM", "want https://host:port"},
		{":15012", "SYSTEM", "want https://host:port"},
		{"https://istiod", "SYSTEM", "want https://host:port"},
		{"http://istiod:15010", "SYSTEM", "https://"},
		{"unix:///run/x", "SYSTEM", "https://"},
		{"istiod:15012", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "no PEM certificate"},
	} {
		conn, err := controlplane.Dial(controlplane.Config{Address: test.address, RootCA: test.root}, quiet)
		if err == nil {
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Dial(%q) = %v, want an error with %q", test.address, err, test.want)
		}
	}
}
