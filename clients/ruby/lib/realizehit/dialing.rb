# frozen_string_literal: true

require "openssl"
require "socket"
require "uri"

require_relative "clock"
require_relative "errors"

module Realizehit
  # Makes the TCP or TLS connection of a WebSocket, through the proxy of the environment if there is one.
  #
  # @api private
  module Dialing
    FAILURES = [SystemCallError, SocketError, IOError, OpenSSL::SSL::SSLError].freeze

    module_function

    # @param url [String]
    # @return [URI] the address of a WebSocket
    # @raise [ArgumentError]
    def checked(url)
      uri = URI.parse(url)
      raise URI::InvalidURIError unless %w[ws wss].include?(uri.scheme) && uri.host && uri.userinfo.nil?

      uri.freeze
    rescue URI::InvalidURIError
      raise ArgumentError, "the address of the WebSocket is not of the form ws://host:port/ws"
    end

    # @return [URI, nil] the proxy for an address, by the variables http_proxy, https_proxy and no_proxy
    def proxy_of(uri)
      scheme = uri.scheme == "wss" ? "https" : "http"
      URI("#{scheme}://#{uri.host}:#{uri.port}/").find_proxy
    end

    def tcp(uri, deadline)
      socket = Socket.tcp(uri.hostname, uri.port, connect_timeout: [deadline - Clock.now, 0.001].max)
      socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
      socket
    end

    # @raise [OpenSSL::SSL::SSLError] if the server's certificate is not one that is trusted for this host
    def tls(socket, uri, ca_file, deadline)
      context = OpenSSL::SSL::SSLContext.new
      context.set_params(ca_file ? { ca_file: } : {})
      tls = OpenSSL::SSL::SSLSocket.new(socket, context)
      tls.sync_close = true
      tls.hostname = uri.hostname
      while (wanted = tls.connect_nonblock(exception: false)).is_a?(Symbol)
        wait(socket, wanted, deadline)
      end
      tls.post_connection_check(uri.hostname)
      tls
    end

    # Waits until a socket can be read or written, as an operation asked that would have blocked.
    def wait(socket, wanted, deadline)
      left = deadline - Clock.now
      ready = left.positive? && (wanted == :wait_writable ? socket.wait_writable(left) : socket.wait_readable(left))
      raise Errno::ETIMEDOUT unless ready
    end
  end
  private_constant :Dialing
end
