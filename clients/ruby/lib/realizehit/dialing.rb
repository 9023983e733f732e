# frozen_string_literal: true

require "openssl"
require "socket"
require "uri"

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

    # Tries the addresses of a host in turn; each gets its part of the time.
    def tcp(uri, deadline)
      addresses = Addrinfo.getaddrinfo(uri.hostname, uri.port, nil, :STREAM)
      begin
        connect(addresses.shift, deadline.part(addresses.size + 1))
      rescue SystemCallError
        addresses.empty? ? raise : retry
      end
    end

    # @raise [OpenSSL::SSL::SSLError] if the server's certificate is not one that is trusted for this host
    def tls(socket, uri, ca_file, deadline)
      context = OpenSSL::SSL::SSLContext.new
      context.set_params(ca_file ? { ca_file: } : {})
      tls = OpenSSL::SSL::SSLSocket.new(socket, context)
      tls.sync_close = true
      tls.hostname = uri.hostname
      while (wanted = tls.connect_nonblock(exception: false)).is_a?(Symbol)
        deadline.wait(socket, wanted)
      end
      tls.post_connection_check(uri.hostname)
      tls
    end

    def connect(address, deadline)
      socket = Socket.new(address.afamily, Socket::SOCK_STREAM)
      socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
      deadline.wait(socket, :wait_writable) if socket.connect_nonblock(address, exception: false) == :wait_writable
      socket.connect_nonblock(address, exception: false) # raises the error, if there was one
      connected = socket
    ensure
      socket.close unless connected
    end
    private_class_method :connect
  end
  private_constant :Dialing
end
