// Package inspect asks a running node agent what it does, for a person at a terminal.
package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	deadline  = 15 * time.Second
	maxAnswer = 16 << 20 // bytes
)

// commands are what can be asked.
var commands = map[string]func(ctx context.Context, agent client, args []string, out io.Writer) error{
	"status": status,
	"verify": verify,
}

// Is tells whether arguments ask a running agent, rather than run one.
func Is(args []string) bool {
	return len(args) > 0 && commands[args[0]] != nil
}

// Run answers. The error says what is wrong: with the agent, or with a pod that was to be verified.
func Run(args []string, out, errs io.Writer) error {
	flags := flag.NewFlagSet("tulle-cni-agent "+args[0], flag.ContinueOnError)
	flags.SetOutput(errs)
	address := flags.String("health-addr", ":8000", "address of the agent's health and debug pages")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return commands[args[0]](ctx, client{*address}, flags.Args(), out)
}

// client is at the agent's address.
type client struct{ address string }

func (c client) get(ctx context.Context, path string, query url.Values) (code int, body []byte, err error) {
	host, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return 0, nil, fmt.Errorf("address of the agent: %w", err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	at := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return 0, nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("ask the node agent: %w: is it running on this machine?", err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return response.StatusCode, body, err
}

// pods is what is read of the agent's page of pods.
type pods struct {
	Proxies int `json:"proxies"`
	Pods    []struct {
		Pod         string            `json:"pod"`
		State       string            `json:"state"`
		Capture     string            `json:"capture"`
		Engine      string            `json:"engine"`
		Generation  string            `json:"generation"`
		Links       []string          `json:"links"`
		Connections map[string]uint64 `json:"connections"`
		Why         string            `json:"why"`
		Ignored     string            `json:"ignored"`
		Error       string            `json:"error"`
	} `json:"pods"`
}

func status(ctx context.Context, agent client, args []string, out io.Writer) error {
	if len(args) > 0 {
		return fmt.Errorf("status takes no %q", args[0])
	}
	code, body, err := agent.get(ctx, "/debug/pods", nil)
	if err != nil {
		return err
	}
	var page pods
	if err := json.Unmarshal(body, &page); err != nil || code != http.StatusOK {
		return fmt.Errorf("this isn't a node agent's answer: %d %.100q", code, body)
	}
	fmt.Fprintf(out, "tunnel proxies connected: %d\n", page.Proxies)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "POD\tSTATE\tENGINE\tGENERATION\tLINKS\tCAPTURED\tBYPASSED\tDROPPED\tIN THE POD\tWHY")
	for _, p := range page.Pods {
		why := p.Why
		for _, more := range []string{p.Error, p.Ignored} {
			if more != "" {
				why += "; " + more
			}
		}
		fmt.Fprintln(table, strings.Join([]string{
			p.Pod, p.State, dash(p.Engine), dash(p.Generation), dash(strings.Join(p.Links, ", ")), sum(p.Connections, "outbound", "inbound", "tunnels", "dns"),
			sum(p.Connections, "bypassed"), sum(p.Connections, "dropped"), dash(p.Capture), why,
		}, "\t"))
	}
	return table.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// sum adds up what was counted; a dash if nothing of it is.
func sum(counts map[string]uint64, names ...string) string {
	total, counted := uint64(0), false
	for _, name := range names {
		n, ok := counts[name]
		total, counted = total+n, counted || ok
	}
	if !counted {
		return dash("")
	}
	return strconv.FormatUint(total, 10)
}

func verify(ctx context.Context, agent client, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("which pod? want: tulle-cni-agent verify NAMESPACE/POD")
	}
	code, body, err := agent.get(ctx, "/debug/verify", url.Values{"pod": args})
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	_, err = out.Write(body)
	return err
}
