package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
)

// maxFile bounds the size of token and root files.
const maxFile = 1 << 20

// System stands for the roots of this machine.
const system = "SYSTEM"

// roots are the certificates that the server's must lead to.
type roots struct{ path, pem string } // neither: the machine's

// RootFile returns the path of the file that a Config.RootCA names, or "" where it isn't one.
func RootFile(rootCA string) string { return newRoots(rootCA).path }

func newRoots(config string) roots {
	switch {
	case config == system:
		return roots{}
	case strings.Contains(config, "-----BEGIN"):
		return roots{pem: config}
	default:
		return roots{path: config}
	}
}

// mayMend tells whether an error of load may go away by itself.
func (r roots) mayMend() bool { return r.path != "" }

func (r roots) load() (*x509.CertPool, error) {
	pem, from := []byte(r.pem), "the inline text"
	switch {
	case r.path != "":
		from = r.path
		var err error
		if pem, err = readFile(r.path); err != nil {
			return nil, fmt.Errorf("root certificates of the control plane: %w; mount the file or set another root certificate", err)
		}
	case r.pem == "":
		return x509.SystemCertPool()
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("root certificates of the control plane: %s holds no PEM certificate", from)
	}
	return pool, nil
}

// transport makes TLS connections, each with the roots of its time.
type transport struct {
	roots       roots
	serverName  string // "": the host of the address
	postQuantum bool
}

// ClientHandshake is called by gRPC for each connection.
func (t transport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pool, err := t.roots.load()
	if err != nil {
		return nil, nil, err
	}
	secured, info, err := t.tls(pool).ClientHandshake(ctx, authority, conn)
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		err = fmt.Errorf("%w; is %s the root certificate of this control plane?", err, t.roots.describe())
	}
	if err != nil {
		return nil, nil, err
	}
	return &paced{Conn: secured}, info, nil
}

func (r roots) describe() string {
	switch {
	case r.path != "":
		return r.path
	case r.pem != "":
		return "the inline text"
	default:
		return "any of this machine's"
	}
}

func (t transport) tls(pool *x509.CertPool) credentials.TransportCredentials {
	config := &tls.Config{RootCAs: pool, ServerName: t.serverName, MinVersion: tls.VersionTLS13}
	if t.postQuantum {
		config.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	}
	return credentials.NewTLS(config)
}

// ServerHandshake is never called: there are only clients here.
func (t transport) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the control plane's channel has no server side")
}

// Info describes the protocol.
func (t transport) Info() credentials.ProtocolInfo { return t.tls(nil).Info() }

// Clone returns a copy.
func (t transport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName is not supported; Config.ServerName is the way.
func (t transport) OverrideServerName(string) error {
	return errors.New("set Config.ServerName instead")
}

// callHeaders are sent with each call.
type callHeaders struct {
	token string // path or literal
	fixed map[string]string
}

func newCallHeaders(config Config) callHeaders {
	fixed := map[string]string{}
	for name, value := range config.Headers {
		fixed[strings.ToLower(name)] = value
	}
	if config.ClusterID != "" {
		fixed["clusterid"] = config.ClusterID
	}
	return callHeaders{token: config.Token, fixed: fixed}
}

// GetRequestMetadata is called by gRPC for each call.
func (h callHeaders) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	headers := maps.Clone(h.fixed)
	token, err := h.readToken()
	if err != nil {
		return nil, err
	}
	if token != "" {
		headers["authorization"] = "Bearer " + token
	}
	return headers, nil
}

// RequireTransportSecurity keeps the token off plain connections.
func (h callHeaders) RequireTransportSecurity() bool { return true }

// readToken reads the file, since the kubelet replaces it before the token expires. A token itself never has a slash.
func (h callHeaders) readToken() (string, error) {
	if _, err := os.Stat(h.token); err != nil && !strings.Contains(h.token, "/") {
		return h.token, nil
	}
	raw, err := readFile(h.token)
	token := strings.TrimSpace(string(raw))
	if err == nil && (token == "" || strings.ContainsAny(token, "\r\n")) {
		err = fmt.Errorf("%s holds no token", h.token)
	}
	if err != nil {
		return "", fmt.Errorf("token for the control plane: %w; mount a service account token there or set another path", err)
	}
	return token, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return data, err
}
