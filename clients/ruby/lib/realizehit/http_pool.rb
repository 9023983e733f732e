# frozen_string_literal: true

require "net/http"
require "openssl"

module Realizehit
  # Connections to one server, kept between requests; each serves one request at a time.
  #
  # @api private
  class HTTPPool
    KEEP_ALIVE = 30 # seconds; the server closes idle connections later than that
    MAX_IDLE = 64
    private_constant :KEEP_ALIVE, :MAX_IDLE

    def initialize(uri, timeout:, ca_file: nil)
      @uri = uri
      @timeout = timeout
      @ca_file = ca_file
      @idle = []
      @lock = Mutex.new
      @closed = false
    end

    # Yields a started connection, and keeps it unless the block raises.
    def with
      http = @lock.synchronize { @idle.pop } || start
      finished = false
      begin
        result = yield http
        finished = true
        result
      ensure
        finished ? keep(http) : finish(http)
      end
    end

    # Closes the connections that are not in use, and the others after their request.
    def close
      idle = @lock.synchronize do
        @closed = true
        @idle.slice!(0..)
      end
      idle.each { |http| finish(http) }
    end

    private

    def start
      http = Net::HTTP.new(@uri.hostname, @uri.port)
      http.use_ssl = @uri.scheme == "https"
      http.ca_file = @ca_file if @ca_file
      http.open_timeout = http.read_timeout = http.write_timeout = @timeout
      http.keep_alive_timeout = KEEP_ALIVE
      http.max_retries = 0 # API decides what is tried again
      http.ignore_eof = false if http.respond_to?(:ignore_eof=) # half an answer is an error
      http.start
    end

    def keep(http)
      kept = @lock.synchronize do
        fits = http.started? && !@closed && @idle.size < MAX_IDLE
        @idle.push(http) if fits
        fits
      end
      finish(http) unless kept
    end

    def finish(http)
      http.finish if http.started?
    rescue IOError, SystemCallError, OpenSSL::SSL::SSLError
      nil # the connection is gone already
    end
  end
  private_constant :HTTPPool
end
