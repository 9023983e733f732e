#!/usr/bin/perl
# Follow the ticker from Perl: perl examples/ticker/follow.pl [--ws URL] [SYMBOL...]
use v5.36;

use FindBin      qw($Bin);
use Getopt::Long qw(GetOptions);
use lib "$Bin/../../clients/perl/lib";

use Net::RealizeHit;

my $url = 'ws://127.0.0.1:8080/ws';
GetOptions( 'ws=s' => \$url ) or exit 2;
STDOUT->autoflush(1);
my $client = Net::RealizeHit::Client->new($url);
for my $symbol ( @ARGV ? @ARGV : q{*} ) {
    $client->subscribe(
        { kind => 'stock', symbol => uc $symbol },
        on_message => sub ( $message, $subscription ) {
            my $price = $message->payload;
            printf "%s  %-5s %8.2f\n", $price->{date}, $message->pattern->{symbol}, $price->{price};
        },
        on_gap => sub ( $gap, $subscription ) { warn sprintf "%.1f s: prices may be missing\n", $gap->{seconds} // 0 },
    );
}
$client->run;
