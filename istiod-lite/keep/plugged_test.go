package keep

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestPluggedAuthorities(t *testing.T) {
	root := issue(t, nil, rsaKey(t, 2048), nil)
	middle := issue(t, &root, ecKey(t), nil)
	rsaSigner, ecSigner := rsaKey(t, 2048), ecKey(t)
	byRSA, byEC := issue(t, &root, rsaSigner, nil), issue(t, &middle, ecSigner, nil)
	certificate := func(p pair) []byte { return ca.EncodeCertificate(p.certificate) }
	for name, c := range map[string]struct {
		files func(dir string)
		chain int // elements beside leaf and roots
	}{
		"below a root, RSA, PKCS 1": {func(dir string) {
			put(t, dir, "ca-cert.pem", certificate(byRSA))
			put(t, dir, "ca-key.pem", pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaSigner)))
			put(t, dir, "cert-chain.pem", certificate(byRSA), certificate(root))
			put(t, dir, "root-cert.pem", certificate(root))
		}, 1},
		"two below, ECDSA, SEC 1": {func(dir string) {
			put(t, dir, "ca-cert.pem", certificate(byEC))
			put(t, dir, "ca-key.pem", sec1(t, ecSigner))
			put(t, dir, "cert-chain.pem", certificate(byEC), certificate(middle))
			put(t, dir, "root-cert.pem", certificate(root), certificate(issue(t, nil, ecKey(t), nil)))
		}, 2},
		"a secret of TLS, PKCS 8": {func(dir string) {
			put(t, dir, "tls.crt", certificate(byEC), certificate(middle))
			put(t, dir, "tls.key", pkcs8(t, ecSigner))
			put(t, dir, "ca.crt", certificate(root))
		}, 2},
		"a root itself": {func(dir string) {
			put(t, dir, "tls.crt", certificate(root))
			put(t, dir, "tls.key", pkcs8(t, root.key))
			put(t, dir, "ca.crt", certificate(root))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.files(dir)
			plugged, err := OpenPlugged(dir, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			a := plugged.Live().Authority()
			id, err := identity.New("cluster.local", "demo", "app")
			if err != nil {
				t.Fatal(err)
			}
			chain, err := a.Issue(id, ecKey(t).Public(), 365*24*time.Hour)
			if err != nil || len(chain) != c.chain+2 {
				t.Fatalf("%d elements, %v", len(chain), err)
			}
			leaf := verify(t, chain)
			if !leaf.NotAfter.Equal(a.Chain[0].NotAfter) {
				t.Errorf("outlives the signer: %s, %s", leaf.NotAfter, a.Chain[0].NotAfter)
			}
		})
	}
}

func TestPluggedAuthoritiesThatDoNotFitAreRefused(t *testing.T) {
	root := issue(t, nil, ecKey(t), nil)
	signer := issue(t, &root, ecKey(t), nil)
	expired := issue(t, &root, ecKey(t), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	leaf := issue(t, &root, ecKey(t), func(c *x509.Certificate) { c.IsCA = false })
	certificate := func(p pair) []byte { return ca.EncodeCertificate(p.certificate) }
	for want, files := range map[string][3][]byte{
		"the key is not that of the certificate":              {certificate(signer), pkcs8(t, ecKey(t)), certificate(root)},
		"the certificate does not lead to the root":           {certificate(signer), pkcs8(t, signer.key), certificate(issue(t, nil, ecKey(t), nil))},
		"certificate has expired":                             {certificate(expired), pkcs8(t, expired.key), certificate(root)},
		"the certificate is not that of an authority":         {certificate(leaf), pkcs8(t, leaf.key), certificate(root)},
		"tls.key: no key in PEM":                              {certificate(signer), []byte("x"), certificate(root)},
		"tls.key: not a private key in PKCS 8, PKCS 1 or SEC": {certificate(signer), pemOf("PRIVATE KEY", []byte("x")), certificate(root)},
		"ca.crt: no certificate in PEM":                       {certificate(signer), pkcs8(t, signer.key), nil},
		"tls.crt: x509":                                       {pemOf("CERTIFICATE", []byte("x")), pkcs8(t, signer.key), certificate(root)},
	} {
		plugged := t.TempDir()
		put(t, plugged, "tls.crt", files[0])
		put(t, plugged, "tls.key", files[1])
		put(t, plugged, "ca.crt", files[2])
		if _, err := OpenPlugged(plugged, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, have %v", want, err)
		}
	}
}

func TestHalfOfAPluggedAuthorityIsRefused(t *testing.T) {
	for file, want := range map[string]string{
		"root-cert.pem": "lacks [ca-cert.pem ca-key.pem cert-chain.pem]", "tls.key": "lacks [tls.crt ca.crt]",
	} {
		plugged := t.TempDir()
		put(t, plugged, file, []byte("x"))
		if _, err := OpenPlugged(plugged, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
	for name, folder := range map[string]string{"an empty folder": t.TempDir(), "no folder": filepath.Join(t.TempDir(), "none")} {
		if _, err := OpenPlugged(folder, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "no authority is plugged in at "+folder) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	lock sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.String()
}

// folder is a plugged authority that is followed.
type folder struct {
	*testing.T
	dir     string
	plugged *Plugged
	log     *lines
}

// publish replaces all files in one step, as the kubelet does.
func (f *folder) publish(files map[string][]byte) {
	f.Helper()
	version, err := os.MkdirTemp(f.dir, "..version-")
	if err != nil {
		f.Fatal(err)
	}
	for name, data := range files {
		put(f.T, version, name, data)
	}
	link := filepath.Join(f.dir, "..data")
	if err := os.Symlink(filepath.Base(version), link+".new"); err != nil {
		f.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		f.Fatal(err)
	}
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(f.dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			f.Fatal(err)
		}
	}
}

func follow(t *testing.T, first map[string][]byte) *folder {
	t.Helper()
	f := &folder{T: t, dir: t.TempDir(), log: &lines{}}
	f.publish(first)
	var err error
	if f.plugged, err = OpenPlugged(f.dir, slog.New(slog.NewTextHandler(f.log, nil))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.plugged.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// becomes waits until the authority is another one.
func (f *folder) becomes(files map[string][]byte) {
	f.Helper()
	changed := f.plugged.Live().Changed()
	f.publish(files)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		f.Fatalf("nothing changed; log:\n%s", f.log)
	}
}

// refuses waits until the log says why.
func (f *folder) refuses(files map[string][]byte, why string) {
	f.Helper()
	before, said := f.plugged.Live().Authority(), len(f.log.String())
	f.publish(files)
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(f.log.String()[said:], why) {
		if time.Now().After(deadline) {
			f.Fatalf("no %q in the log:\n%s", why, f.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if !f.plugged.Live().Authority().Equal(before) {
		f.Error("another authority")
	}
}

// bundle are the files of an authority in Istio's layout.
func bundle(t *testing.T, signer pair, above []pair, roots ...pair) map[string][]byte {
	t.Helper()
	files := map[string][]byte{"ca-cert.pem": ca.EncodeCertificate(signer.certificate), "ca-key.pem": pkcs8(t, signer.key)}
	for _, one := range append([]pair{signer}, above...) {
		files["cert-chain.pem"] = append(files["cert-chain.pem"], ca.EncodeCertificate(one.certificate)...)
	}
	for _, root := range roots {
		files["root-cert.pem"] = append(files["root-cert.pem"], ca.EncodeCertificate(root.certificate)...)
	}
	return files
}

func TestAPluggedAuthorityIsReplacedLive(t *testing.T) {
	t.Parallel()
	one, other := issue(t, nil, ecKey(t), nil), issue(t, nil, ecKey(t), nil)
	first, second, moved := issue(t, &one, ecKey(t), nil), issue(t, &one, ecKey(t), nil), issue(t, &other, ecKey(t), nil)
	f := follow(t, bundle(t, first, nil, one))
	f.becomes(bundle(t, second, nil, one))        // another intermediate
	f.becomes(bundle(t, second, nil, one, other)) // the next root is published
	f.becomes(bundle(t, moved, nil, one, other))  // and signs
	f.becomes(bundle(t, moved, nil, other))       // the old one goes
	if got := f.plugged.Live().Authority(); !got.Chain[0].Equal(moved.certificate) || len(got.Roots) != 1 {
		t.Error("not the last authority")
	}
}

func TestAPluggedAuthorityThatWouldCutClientsOffIsRefused(t *testing.T) {
	t.Parallel()
	one, other := issue(t, nil, ecKey(t), nil), issue(t, nil, ecKey(t), nil)
	first, moved := issue(t, &one, ecKey(t), nil), issue(t, &other, ecKey(t), nil)
	good := bundle(t, first, nil, one)
	f := follow(t, good)
	f.refuses(bundle(t, moved, nil, other), "the roots are others: publish the old and the new ones together first")
	f.refuses(bundle(t, moved, nil, one, other), "the certificate leads to no root that clients already know")
	half := bundle(t, first, nil, one)
	half["ca-key.pem"] = pkcs8(t, ecKey(t))
	f.refuses(half, "the key is not that of the certificate")
	half["ca-key.pem"] = nil
	f.refuses(half, "ca-key.pem: no key in PEM")
	half["ca-key.pem"] = make([]byte, maxBytes+1)
	f.refuses(half, "exceeds 1048576 bytes")
	// What is good again is used again.
	f.becomes(bundle(t, first, nil, one, other))
}

func TestRevocationListsArePassedOn(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, ecKey(t), func(c *x509.Certificate) {
		c.KeyUsage |= x509.KeyUsageCRLSign
		c.SubjectKeyId = []byte{1, 2, 3}
	})
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, root.certificate, root.key)
	if err != nil {
		t.Fatal(err)
	}
	files := bundle(t, root, nil, root)
	f := follow(t, files)
	if f.plugged.Live().RevokedPEM() != nil {
		t.Error("revocation lists from nowhere")
	}
	files["ca-crl.pem"] = pemOf("X509 CRL", list)
	f.becomes(files)
	if string(f.plugged.Live().RevokedPEM()) != string(files["ca-crl.pem"]) {
		t.Error("other revocation lists")
	}
	files["ca-crl.pem"] = []byte("nonsense")
	f.refuses(files, "ca-crl.pem: no revocation list in PEM")
	files["ca-crl.pem"] = pemOf("X509 CRL", []byte("nonsense"))
	f.refuses(files, "ca-crl.pem: ")
}

// An editor writes one file after the other: what doesn't fit in between isn't used.
func TestFilesThatAreReplacedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, ecKey(t), nil)
	first, second := issue(t, &root, ecKey(t), nil), issue(t, &root, ecKey(t), nil)
	dir := t.TempDir()
	for name, data := range bundle(t, first, nil, root) {
		put(t, dir, name, data)
	}
	log := &lines{}
	plugged, err := OpenPlugged(dir, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- plugged.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for name, data := range bundle(t, second, nil, root) {
		put(t, dir, name, data)
		time.Sleep(50 * time.Millisecond) // an editor's pause
	}
	for deadline := time.After(20 * time.Second); ; { // some of the files may be used before the others, if they fit
		changed := plugged.Live().Changed()
		if plugged.Live().Authority().Chain[0].Equal(second.certificate) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not the new authority; log:\n%s", log)
		}
	}
}
