package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// patience is how long a request, or a connection without one, may take.
const patience = 30 * time.Second

// server is what listens on one port.
type server struct {
	port  int
	serve func(net.Listener) error
}

// runServer listens on the ports that it is told, until ctx ends. Those who only ask are told none.
func runServer(ctx context.Context, args []string) error {
	servers, err := parseServers(args)
	if err != nil {
		return err
	}
	failed := make(chan error, len(servers))
	for _, s := range servers {
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", s.port))
		if err != nil {
			return err
		}
		defer listener.Close()
		go func() { failed <- fmt.Errorf("port %d: %w", s.port, s.serve(listener)) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func parseServers(args []string) ([]server, error) {
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	var web, secure, plain, calls []int
	for name, list := range map[string]*[]int{"port": &web, "tls": &secure, "tcp": &plain, "grpc": &calls} {
		flags.Func(name, "port to listen on", func(text string) error {
			port, err := strconv.ParseUint(text, 10, 16)
			*list = append(*list, int(port))
			return err
		})
	}
	var pair certificateFiles
	flags.StringVar(&pair.crt, "crt", "", "certificate; one is made at the start if there is no such file")
	flags.StringVar(&pair.key, "key", "", "its key")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	isSecure := map[int]bool{}
	for _, port := range secure {
		isSecure[port] = true
	}
	var servers []server
	for _, port := range web {
		servers = append(servers, server{port, func(l net.Listener) error { return serveHTTP(l, port, isSecure[port], pair) }})
	}
	for _, port := range plain {
		servers = append(servers, server{port, func(l net.Listener) error { return serveTCP(l, port) }})
	}
	for _, port := range calls {
		servers = append(servers, server{port, func(l net.Listener) error { return serveGRPC(l, port) }})
	}
	return servers, nil
}

// serveHTTP takes HTTP/1.1 and HTTP/2, this without TLS too.
func serveHTTP(l net.Listener, port int, secure bool, pair certificateFiles) error {
	s := &http.Server{
		ReadHeaderTimeout: patience, Protocols: new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			client, _ := net.ResolveTCPAddr("tcp", r.RemoteAddr)
			answer{port: port, host: r.Host, url: r.RequestURI, method: r.Method, proto: r.Proto, client: client, headers: r.Header}.write(w)
		}),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	if !secure {
		return s.Serve(l)
	}
	certificate, err := pair.load()
	if err != nil {
		return err
	}
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	return s.ServeTLS(l, "", "")
}

// certificateFiles are the paths of what a server proves itself with.
type certificateFiles struct{ crt, key string }

// load reads the files. Most clients don't look at who has signed, so there need be none.
func (f certificateFiles) load() (tls.Certificate, error) {
	if _, err := os.Stat(f.crt); err != nil {
		return selfSigned()
	}
	return tls.LoadX509KeyPair(f.crt, f.key)
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"echo"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// longest is the most that a line over TCP may have, in bytes.
const longest = 4096

// serveTCP answers a line of each connection, and ends it.
func serveTCP(l net.Listener, port int) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			if _, err := bufio.NewReader(io.LimitReader(conn, longest)).ReadString('\n'); err == nil {
				fmt.Fprintln(conn, "StatusCode=200")
				answer{port: port, proto: "TCP", client: conn.RemoteAddr()}.write(conn)
			}
		}()
	}
}

// echoMethod is the one that there is. Its messages have a text as their field 1, as StringValue does.
const echoService, echoMethod = "proto.EchoTestService", "Echo"

func serveGRPC(l net.Listener, port int) error {
	s := grpc.NewServer(grpc.ConnectionTimeout(patience))
	call := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := decode(new(wrapperspb.StringValue)); err != nil {
			return nil, err
		}
		headers, _ := metadata.FromIncomingContext(ctx)
		a := answer{port: port, host: strings.Join(headers.Get(":authority"), ","), method: echoMethod, proto: "GRPC", headers: headers}
		if p, ok := peer.FromContext(ctx); ok {
			a.client = p.Addr
		}
		var text strings.Builder
		err := a.write(&text)
		return wrapperspb.String(text.String()), err
	}
	s.RegisterService(&grpc.ServiceDesc{ServiceName: echoService, Methods: []grpc.MethodDesc{{MethodName: echoMethod, Handler: call}}}, nil)
	return s.Serve(l)
}
