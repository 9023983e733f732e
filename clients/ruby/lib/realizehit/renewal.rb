# frozen_string_literal: true

require_relative "backoff"

module Realizehit
  # Sends a fresh token before the old one ends, on a thread of its own, since the token function may take its time.
  #
  # @api private
  class Renewal
    # The part of the time that is left after which the function is called: clients whose tokens end together do not ask
    # together.
    PART = (0.25..0.5)
    private_constant :PART

    def initialize(client, options)
      @client = client
      @options = options
      @thread = nil
    end

    # Begins, unless it is under way.
    #
    # @param seconds [Numeric] after which the token ends
    def begin(connection, seconds)
      return if @thread&.alive?

      @thread = Thread.new { renew(connection, seconds * Random.rand(PART)) }
      @thread.name = "realizehit renewal"
    end

    def join
      @thread&.join unless @thread == Thread.current
    end

    private

    # However many attempts that takes, until the connection is lost.
    def renew(connection, delay)
      delays = Backoff.new(@options.backoff_base, @options.backoff_cap)
      while @client.wait_on(connection, delay)
        begin
          return @client.authenticate(connection, @options.current_token)
        rescue Error => e
          @client.told(@options.on_error, e) if @client.wait_on(connection, 0)
          delay = delays.next
        end
      end
    end
  end
  private_constant :Renewal
end
