package spans

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// attempts and pause bound what is tried again: the first pause, then twice that.
	attempts = 3
	pause    = time.Second

	maxAnswer = 64 << 10
	// exportMethod takes an ExportTraceServiceRequest, which is the same on the wire as TracesData. The generated service
	// isn't used because it brings an HTTP gateway with it.
	exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
)

// CollectorConfig is where a collector is and how to talk to it.
type CollectorConfig struct {
	// GRPC is OTLP's gRPC transport; else it is protobuf by HTTP.
	GRPC bool
	// URL is http://… or https://…; with GRPC its path has no meaning.
	URL     string
	Headers map[string]string
	Timeout time.Duration // of one attempt
	Gzip    bool
	// RootCA, ClientCert and ClientKey are paths of PEM files for https. Without RootCA it is the machine's roots.
	RootCA, ClientCert, ClientKey string
}

// Collector is the other end for spans. Nothing is dialled before the first of them.
type Collector struct {
	cfg  CollectorConfig
	grpc *grpc.ClientConn
	http *http.Client
}

// NewCollector reads the files that cfg names and gets ready to dial.
func NewCollector(cfg CollectorConfig) (*Collector, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("trace collector %q: want http://host:port or https://host:port", cfg.URL)
	}
	secure, err := tlsConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("trace collector %s: %w", cfg.URL, err)
	}
	c := &Collector{cfg: cfg}
	if !cfg.GRPC {
		c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: secure, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxConnsPerHost: 1}}
		return c, nil
	}
	transport := insecure.NewCredentials()
	if u.Scheme == "https" {
		transport = credentials.NewTLS(secure)
	}
	c.grpc, err = grpc.NewClient("dns:///"+u.Host, grpc.WithTransportCredentials(transport), grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("trace collector %s: %w", cfg.URL, err)
	}
	return c, nil
}

func tlsConfig(cfg CollectorConfig) (*tls.Config, error) {
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.RootCA != "" {
		text, err := os.ReadFile(cfg.RootCA)
		if err != nil {
			return nil, fmt.Errorf("root certificates: %w", err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("root certificates: %s has no certificate in PEM form", cfg.RootCA)
		}
	}
	if cfg.ClientCert != "" || cfg.ClientKey != "" {
		pair, err := tls.LoadX509KeyPair(cfg.ClientCert, cfg.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		secure.Certificates = []tls.Certificate{pair}
	}
	return secure, nil
}

// Close ends the connection.
func (c *Collector) Close() {
	if c.grpc != nil {
		c.grpc.Close()
		return
	}
	c.http.CloseIdleConnections()
}

// errTransient marks a failure that may be another's turn (OTLP: "Failures", retryable).
var errTransient = errors.New("the collector is busy or away")

// Export sends spans, again after a pause if the collector is busy or away, and returns how many it refused.
func (c *Collector) Export(ctx context.Context, traces *tracepb.TracesData) (refused int, err error) {
	send := c.sendHTTP
	if c.cfg.GRPC {
		send = c.sendGRPC
	}
	for attempt := range attempts {
		once, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		var answer []byte
		answer, err = send(once, traces)
		cancel()
		if err == nil {
			return refusedSpans(answer), nil
		}
		if !errors.Is(err, errTransient) || attempt == attempts-1 {
			break
		}
		select {
		case <-time.After(pause << attempt):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, fmt.Errorf("export to %s: %w", c.cfg.URL, err)
}

func (c *Collector) sendGRPC(ctx context.Context, traces *tracepb.TracesData) ([]byte, error) {
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(c.cfg.Headers))
	options := []grpc.CallOption{grpc.MaxCallRecvMsgSize(maxAnswer)}
	if c.cfg.Gzip {
		options = append(options, grpc.UseCompressor(grpcgzip.Name))
	}
	var answer emptypb.Empty // its unknown fields are the answer
	err := c.grpc.Invoke(ctx, exportMethod, traces, &answer, options...)
	switch status.Code(err) {
	case codes.OK:
		return answer.ProtoReflect().GetUnknown(), nil
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return nil, fmt.Errorf("%w: %w", errTransient, err)
	}
	return nil, err
}

func (c *Collector) sendHTTP(ctx context.Context, traces *tracepb.TracesData) ([]byte, error) {
	body, err := proto.Marshal(traces)
	if err != nil {
		return nil, err
	}
	if c.cfg.Gzip {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, _ = z.Write(body) // a buffer takes everything
		_ = z.Close()
		body = packed.Bytes()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range c.cfg.Headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	if c.cfg.Gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTransient, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch code := response.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		return nil, fmt.Errorf("%w: %s", errTransient, response.Status)
	case code/100 != 2:
		return nil, fmt.Errorf("%s: %.200q", response.Status, answer)
	}
	return answer, err
}

// refusedSpans reads an ExportTraceServiceResponse: field 1 is a partial success, whose field 1 says how many were refused.
// What can't be read refuses nothing.
func refusedSpans(answer []byte) int {
	partial := lastField(answer, protowire.BytesType)
	message, n := protowire.ConsumeBytes(partial)
	if n < 0 {
		return 0
	}
	refused, n := protowire.ConsumeVarint(lastField(message, protowire.VarintType))
	if n < 0 || refused > maxBatch {
		return 0
	}
	return int(refused)
}

// lastField returns the text from the last value of field 1 on, if that has the type.
func lastField(message []byte, kind protowire.Type) (found []byte) {
	for len(message) > 0 {
		number, got, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil
		}
		if number == 1 && got == kind {
			found = message[n:]
		}
		length := protowire.ConsumeFieldValue(number, got, message[n:])
		if length < 0 {
			return nil
		}
		message = message[n+length:]
	}
	return found
}
