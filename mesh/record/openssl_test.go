package record

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// openSSL is OpenSSL's client, joined to us as its server.
type openSSL struct {
	*exec.Cmd
	input    io.WriteCloser
	output   io.Reader
	messages *bufio.Scanner
	ours     *driven
}

func startOpenSSL(t *testing.T, suite uint16) *openSSL {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	client, server := configs(t)
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	credential := writeCredential(t, client)
	p := &openSSL{Cmd: exec.CommandContext(ctx, program, "s_client", "-connect", listener.Addr().String(), "-ciphersuites", tls.CipherSuiteName(suite),
		"-alpn", "h2", "-cert", credential, "-key", credential, "-record_padding", "500", "-quiet", "-no_ign_eof")}
	p.input, p.output = must(p.StdinPipe())(t), must(p.StdoutPipe())(t)
	p.messages = bufio.NewScanner(must(p.StderrPipe())(t))
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	conn := must(listener.Accept())(t)
	t.Cleanup(func() {
		_ = conn.Close()
		_ = p.Wait()
	})
	p.ours = must(drive(conn, server, Server))(t)
	return p
}

// Somebody else's TLS pads its records, and asks for new keys as well as being asked.
func TestTalksWithOpenSSL(t *testing.T) {
	for _, suite := range allSuites {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			peer := startOpenSSL(t, suite)
			ours := peer.ours
			for range 3 {
				talk(t, peer.input, ours, "a question")
				talk(t, ours, peer.output, "an answer")
				if _, err := ours.conn.Write(must(ours.writer.AppendKeyUpdate(nil, true))(t)); err != nil {
					t.Fatal(err)
				}
				peer.keyUpdate(t)
			}
			talk(t, peer.input, ours, "a question")
			if state, _ := ours.reader.State(); ours.state.CipherSuite != suite || state.Sequence > 2 {
				t.Errorf("agreed on %s, %v", tls.CipherSuiteName(ours.state.CipherSuite), state)
			}
			if ours.updates != 3 {
				t.Errorf("we were asked for new keys %d times", ours.updates)
			}
			_ = peer.input.Close()
			if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

func TestTalksWithOpenSSLAsServer(t *testing.T) {
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	client, server := configs(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	credential := writeCredential(t, server)
	peer := exec.CommandContext(ctx, program, "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-alpn", "h2", "-cert", credential, "-key", credential,
		"-Verify", "1", "-num_tickets", "4", "-record_padding", "300")
	input, output := must(peer.StdinPipe())(t), bufio.NewScanner(must(peer.StdoutPipe())(t))
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	for output.Scan() {
		if address, ok := strings.CutPrefix(output.Text(), "ACCEPT "); ok {
			conn = must(net.Dial("tcp", address))(t)
			break
		}
	}
	if conn == nil {
		t.Fatalf("openssl doesn't listen: %v", peer.Wait())
	}
	defer func() {
		_ = conn.Close()
		_ = peer.Wait()
	}()
	ours := must(drive(conn, client, Client))(t)
	for _, line := range []string{"one", "two", "three"} {
		talk(t, input, ours, "ask "+line+"\n")
		if _, err := ours.Write([]byte("answer " + line + "\n")); err != nil {
			t.Fatal(err)
		}
		for output.Scan() && !strings.HasSuffix(output.Text(), "answer "+line) { // amid what it says of the session
		}
		if _, err := ours.conn.Write(must(ours.writer.AppendKeyUpdate(nil, true))(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// keyUpdate has the peer ask for new keys with the next that it writes.
func (p *openSSL) keyUpdate(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.input, "K\n"); err != nil {
		t.Fatal(err)
	}
	for p.messages.Scan() {
		if strings.Contains(p.messages.Text(), "KEYUPDATE") {
			return
		}
	}
	t.Fatal("openssl did not take the command")
}
